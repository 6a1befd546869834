"""Numbers of numpy and torch, as our own frames hold them, wherever the public names take one."""

import json
import re
from fractions import Fraction
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import baselines
import search
import sekron
from sekron.scalars import number, whole
from sekron.training.funnel_penalty import Funnel

WHOLE = {
    "int64": np.int64,
    "uint8": np.uint8,
    "array": np.array,
    "tensor": torch.tensor,
}

REAL = {
    "float64": np.float64,
    "float32": np.float32,
    "array": np.array,
    "tensor": lambda value: torch.tensor(value, dtype=torch.float64),
    "fraction": Fraction,
}

SHARE = 0.75
"""That every kind holds without rounding."""

whole_kinds = pytest.mark.parametrize("kind", WHOLE.values(), ids=WHOLE)
real_kinds = pytest.mark.parametrize("kind", REAL.values(), ids=REAL)


def of_type(value, wanted):
    return type(value) is type(wanted) and value == wanted


@whole_kinds
def test_whole_numbers(kind):
    assert of_type(whole("steps", kind(7)), 7)
    assert of_type(number("rate", kind(7)), 7)
    assert of_type(search.Budget(flops=kind(7)).flops, 7)
    assert of_type(search.Budget(speedup=kind(7)).speedup, 7.0)
    assert of_type(sekron.Recipe(epochs=kind(7)).epochs, 7)


@real_kinds
def test_real_numbers(kind):
    assert of_type(number("rate", kind(SHARE)), SHARE)
    assert of_type(Funnel(strength=kind(SHARE)).strength, SHARE)
    for name in ("flops", "params", "latency", "latency_ms", "min_score"):
        budget = search.Budget(**{name: kind(SHARE)})
        assert of_type(getattr(budget, name), SHARE)
        assert budget == search.Budget(**{name: SHARE})
        assert budget.digest == search.Budget(**{name: SHARE}).digest
        assert str(budget) == str(search.Budget(**{name: SHARE}))
    for name in ("learning_rate", "decay", "distillation", "temperature", "clip"):
        recipe = sekron.Recipe(**{name: kind(SHARE)})
        assert of_type(getattr(recipe, name), SHARE)


def test_a_float_without_a_fraction_is_whole():
    assert of_type(whole("steps", 3.0), 3)
    assert of_type(whole("steps", np.float64(3.0)), 3)


@pytest.mark.parametrize("value", [2.5, np.float64(2.5), "3", None, [3], np.array([3]), 3j])
def test_what_is_no_whole_number(value):
    with pytest.raises(TypeError, match=r"^`steps` must be a whole number, got "):
        whole("steps", value)


@pytest.mark.parametrize("value", ["0.5", None, [0.5], np.array([0.5]), 1j, torch.ones(1)])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match=r"^`rate` must be a number, got "):
        number("rate", value)


@pytest.mark.parametrize("value", [pd.Series([1, 2]), torch.ones(2, 3), np.ones((2, 3))], ids=type)
def test_what_has_several_lines_is_named_in_one(value):
    message = f"{type(value).__name__} of shape {tuple(value.shape)}"
    calls = [partial(whole, "steps"), partial(number, "rate")]
    calls += [
        lambda value, name=name: search.Budget(**{name: value}) for name in ("flops", "speedup")
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"^[^\n]*, got {re.escape(message)}\.$"):
            call(value)


@pytest.mark.parametrize("value", [np.True_, np.array(True), torch.tensor(True)], ids=str)
@pytest.mark.parametrize("name", ["flops", "latency", "min_score"])
def test_a_budget_is_not_true(value, name):
    with pytest.raises(TypeError, match=f"^`{name}` must be a"):
        search.Budget(**{name: value})


@whole_kinds
def test_structures(kind):
    plain = sekron.Structure("chain", ((6, 1, 3, 1), (1, 4, 1, 3)), (2,))
    shapes = [[kind(size) for size in shape] for shape in plain.shapes]
    structure = sekron.Structure("chain", shapes, [kind(2)])
    assert structure == plain
    assert json.dumps(structure.shapes) == json.dumps(plain.shapes)
    output_size, around = (kind(5), kind(7)), {"stride": kind(2), "dilation": kind(3)}
    flops = structure.flops(output_size, **around, input_size=(kind(20), kind(30)))
    assert of_type(flops, plain.flops((5, 7), stride=2, dilation=3, input_size=(20, 30)))
    layer = sekron.SeKronConv2d(structure, stride=kind(2), padding=(kind(1), kind(0)))
    assert layer(torch.zeros(1, 4, 9, 9)).shape == (1, 6, 5, 4)


@whole_kinds
def test_seeds_and_sweeps(kind, small_weight):
    cp = sekron.Structure("cp", ((8, 1, 1, 1), (1, 6, 1, 1), (1, 1, 3, 2)), (3,))
    factors = sekron.decompose(small_weight, cp, seed=kind(3))
    for a, b in zip(factors, sekron.decompose(small_weight, cp, seed=3), strict=True):
        assert torch.equal(a, b)
    refined = sekron.refine(small_weight, factors, cp, sweeps=kind(2))
    for a, b in zip(refined, sekron.refine(small_weight, factors, cp, sweeps=2), strict=True):
        assert torch.equal(a, b)


def test_a_budget_out_of_a_front(small_run):
    result = search.load(small_run)
    front = result.pareto_front()
    for name in ("flops", "params", "flops_ratio", "params_ratio"):
        for value in (front[name].iloc[1], front[name].median()):
            if name.endswith("ratio") or float(value).is_integer():
                kind = float if name.endswith("ratio") else int
                resource, limit = name.removesuffix("_ratio"), front[name].dtype.type(value)
                plan = result.plan(search.Budget(**{resource: limit}))
                assert plan == result.plan(search.Budget(**{resource: kind(value)}))


@pytest.mark.parametrize(
    ("whole_kind", "real_kind"),
    [(np.int64, np.float64), (np.array, np.array), (torch.tensor, REAL["tensor"])],
    ids=["numpy", "array", "tensor"],
)
def test_a_search_records_plain_numbers(
    whole_kind, real_kind, small_network, small_input, tmp_path
):
    def searched(folder, as_whole, as_real):
        return search.run(
            small_network,
            small_input,
            budget=search.Budget(flops=as_real(0.5), params=as_whole(10**4)),
            n_trials=as_whole(2),
            max_sequence_length=as_whole(2),
            min_share=as_real(0.125),
            rank_multiple=as_whole(2),
            seed=as_whole(5),
            measure_seconds=as_real(0.0),
            n_network_trials=as_whole(1),
            run=tmp_path / folder,
            progress=False,
        )

    wanted, found = searched("plain", int, float), searched("other", whole_kind, real_kind)
    assert found.best == wanted.best
    assert search.load(tmp_path / "other").best == wanted.best
    settings = [
        json.loads((tmp_path / f / "run.json").read_text())["settings"] for f in ("plain", "other")
    ]
    assert settings[0] == settings[1]
    # The same search goes on, however its numbers are said.
    assert searched("other", int, float).best == wanted.best


@pytest.mark.parametrize("name", ["n_trials", "max_sequence_length", "rank_multiple", "seed"])
def test_a_search_refuses_parts_of_a_trial(name, small_network, small_input):
    with pytest.raises(TypeError, match=f"^`{name}` must be a whole number, got 2.5"):
        search.run(small_network, small_input, budget=search.Budget(flops=0.5), **{name: 2.5})


@real_kinds
def test_shares_and_seconds(kind, small_network, small_input):
    small = kind(SHARE)
    assert search.profile(small_network, small_input, min_share=small) == search.profile(
        small_network, small_input, min_share=SHARE
    )
    assert search.latency(small_network, small_input, precision=small, max_seconds=small).n_runs > 0
    arguments = {"methods": ["channel_svd"], "allocations": ["exact"], "progress": False}
    budget = search.Budget(flops=small)
    frame = baselines.compare(small_network, small_input, budget, max_seconds=small, **arguments)
    assert len(frame) == 1


@whole_kinds
def test_steps(kind):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)).eval()
    batches = [torch.randn(8, 4, 6, 6)]
    structure = sekron.Structure.parse("chain:5x1x3x1,1x6x1x3@3")
    states = []
    for steps in (kind(3), 3):
        small = sekron.Plan({"2": structure}).apply(dense)
        sekron.refit(small, dense, batches, steps=steps, progress=False)
        sekron.tune(small, dense, batches, steps=steps, progress=False)
        states.append(small.state_dict())
    assert all(torch.equal(states[0][name], tensor) for name, tensor in states[1].items())


@pytest.mark.parametrize("read", [whole, number])
@pytest.mark.parametrize("value", [2**64, -(10**400), 10**5000], ids=["65 bits", "low", "long"])
def test_a_number_beyond_all_is_refused_in_a_short_line(read, value):
    with pytest.raises(
        ValueError, match=r"`steps` must have at most 64 bits, got a number of \d+\."
    ):
        read("steps", value)
    assert read("steps", 2**64 - 1) == 2**64 - 1


@pytest.mark.parametrize("name", ["n_network_trials", "n_threads", "measure_seconds", "min_share"])
def test_a_search_refuses_a_number_beyond_all(name):
    given = {"budget": search.Budget(flops=0.5), name: 10**400}
    with pytest.raises(ValueError, match=rf"`{name}` must have at most 64 bits"):
        search.run(nn.Linear(3, 3), torch.zeros(1, 3), **given)


LIMITED = {
    "max_seconds": lambda model, x, limit: baselines.compare(
        model, x, search.Budget(flops=0.5), max_seconds=limit
    ),
    "measure_seconds": lambda model, x, limit: search.verify(
        model, model, x, measure_seconds=limit
    ),
}


@pytest.mark.parametrize("name", LIMITED)
@pytest.mark.parametrize("limit", [float("nan"), -1, float("-inf")])
def test_a_limit_that_is_none_is_refused(small_network, small_input, name, limit):
    with pytest.raises(ValueError, match=rf"`{name}` must be at least 0, got {limit}"):
        LIMITED[name](small_network, small_input, limit)
