"""Tests of search.pipeline.request: the arguments of a search, told twice, mean the same."""

from inspect import signature

import pytest

import search
from baselines import compare
from search import Budget
from search.pipeline.request import request_of


def test_a_request_has_the_arguments_of_a_run_and_its_defaults() -> None:
    """Only the folder is not part of the request: it observes."""
    arguments = dict(signature(search.run).parameters)
    del arguments["run"]
    assert dict(signature(request_of).parameters) == arguments


@pytest.mark.parametrize("budget", [0.5, None, "flops=0.5", {"flops": 0.5}])
def test_what_is_no_budget_is_refused_wherever_one_is_taken(
    budget, small_network, small_input, small_run
):
    result = search.load(small_run)
    takers = [
        lambda: search.run(small_network, small_input, budget=budget),
        lambda: result.plan(budget),
        lambda: result.allocate(budget),
        lambda: compare(small_network, small_input, budget=[budget]),
    ]
    if budget is not None:  # the whole front
        takers.append(lambda: result.pareto_front(budget))
    for taker in takers:
        with pytest.raises(TypeError, match=r"^`budget` must be a Budget, such as Budget\(flops"):
            taker()


def test_families_in_one_string_are_refused(small_network, small_input):
    with pytest.raises(ValueError, match=r"^`families` must be a list .* got the string 'cp'\.$"):
        search.run(small_network, small_input, budget=Budget(flops=0.5), families="cp")
