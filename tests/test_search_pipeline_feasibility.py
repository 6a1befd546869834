"""A budget that cannot be met is refused before anything is searched or written."""

import re

import pytest
import torch
from torch import nn

import search
from search import Budget, InfeasibleBudget
from search.per_layer.space import Space
from search.pipeline import feasibility
from search.pipeline.feasibility import check_feasible


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(8, 12, 3),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(12, 12, 3, 3),
    )


@pytest.fixture(scope="module")
def example():
    return torch.zeros(1, 3, 15, 14)


@pytest.fixture(scope="module")
def profile(network, example):
    return search.profile(network, example)


def spaces_of(profile, max_length=3):
    return {layer.name: Space(layer.weight_shape, max_length) for layer in profile.searched}


def test_capacity_is_what_the_other_layers_leave(profile):
    assert [layer.name for layer in profile.searched] == ["1", "3"]
    fixed = profile.layers[0].flops + profile.layers[2].flops
    assert profile.fixed("flops") == fixed
    assert profile.available(Budget()) == {}
    assert profile.available(Budget(flops=0.5)) == {"flops": int(0.5 * profile.flops) - fixed}
    assert profile.available(Budget(params=1000))["params"] == 1000 - profile.fixed("params")


@pytest.mark.parametrize("resource", ["flops", "params"])
def test_refusal_says_the_least_and_what_holds_it_up(network, example, profile, resource, tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(InfeasibleBudget, match=f"`{resource}` must leave at least") as caught:
        search.run(
            network,
            example,
            budget=Budget(**{resource: 0.01}),
            run=folder,
            measure_seconds=0,
            progress=False,
        )
    assert not folder.exists()
    message = str(caught.value)
    assert "got 0.01" in message
    assert "raise the budget or search more layers with `include`" in message
    heaviest = max((profile.layers[0], profile.layers[2]), key=lambda x: getattr(x, resource))
    assert f"layer {heaviest.name!r}" in message
    assert heaviest.reason in message
    least = int(re.search(r"\(([\d,]+)\)", message)[1].replace(",", ""))
    check_feasible(Budget(**{resource: least}), profile, spaces_of(profile))
    with pytest.raises(InfeasibleBudget):
        check_feasible(Budget(**{resource: least - 1}), profile, spaces_of(profile))


@pytest.mark.parametrize("resource", ["flops", "params"])
def test_the_least_can_really_be_reached(network, example, profile, resource):
    with pytest.raises(InfeasibleBudget) as caught:
        check_feasible(Budget(**{resource: 1}), profile, spaces_of(profile))
    least = int(re.search(r"\(([\d,]+)\)", str(caught.value))[1].replace(",", ""))
    budget = Budget(**{resource: least})
    result = search.run(
        network, example, budget=budget, n_trials=0, measure_seconds=0, progress=False
    )
    assert result.profile.totals(result.best)[resource] == least


def test_equal_layers_are_looked_at_once_and_none_without_a_limit(monkeypatch):
    network = nn.Sequential(*(nn.Conv2d(12, 12, 3, padding=1) for _ in range(3)))
    profile = search.profile(network, torch.zeros(1, 12, 7, 5))
    assert len(profile.searched) == 2  # but for the first
    asked, least = [], feasibility.least_structures

    def recorded(*arguments):
        asked.append(arguments)
        return least(*arguments)

    monkeypatch.setattr(feasibility, "least_structures", recorded)
    check_feasible(Budget(), profile, spaces_of(profile))
    assert asked == []
    check_feasible(Budget(flops=0.5), profile, spaces_of(profile))
    layer = profile.searched[0]
    assert asked == [(spaces_of(profile)[layer.name].templates(), layer.calls, 1)]


def test_limits_that_no_structure_meets_at_once(network, example, profile):
    def least(resource):
        with pytest.raises(InfeasibleBudget) as caught:
            check_feasible(Budget(**{resource: 1}), profile, spaces_of(profile))
        return int(re.search(r"\(([\d,]+)\)", str(caught.value))[1].replace(",", ""))

    both = Budget(flops=least("flops"), params=least("params"))
    with pytest.raises(InfeasibleBudget, match="together, but no structures were found that meet"):
        search.run(network, example, budget=both, n_trials=0, measure_seconds=0, progress=False)


def test_a_budget_below_the_layers_that_stay(network, example):
    with pytest.raises(InfeasibleBudget, match=r"`flops` must leave at least .* got 1:"):
        search.run(network, example, budget=Budget(flops=1), measure_seconds=0, progress=False)
