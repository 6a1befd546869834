"""Every frame: its columns have meanings that `help` shows; rows of a front by budget; a plan's."""

import inspect
import re

import numpy as np
import pytest
import torch

import baselines
import search
import sekron
from search import Budget, SearchResult
from sekron.columns import COLUMNS
from sekron.layers.operations import Form
from sekron.network.plan_frame import FRAME
from tests.test_search_whole_network_within_latency import World
from tests.test_search_whole_network_within_latency import run as run_in

UNITS = {
    "count": r"[Mm]ultiply-adds|[Nn]umbers|[Ll]ayers|Row|In one|Of the structure|Scored",
    "share": r"0 to 1|dense network's (FLOPs|numbers)",
}


def told_columns(function):
    """Columns that `help` of a function tells, in their order."""
    _, _, told = inspect.getdoc(function).partition("\nColumns:\n")
    return re.findall(r"^    (\w+): \S", told, re.MULTILINE)


@pytest.fixture(scope="module")
def result(small_network, small_input):
    """With a calibration, a clock and a score: with every column that there is."""
    torch.manual_seed(0)
    with torch.no_grad():
        return run_in(
            World(search.profile(small_network, small_input)),
            small_network,
            small_input,
            budget=Budget(flops=0.6),
            calibration=[torch.randn(8, 3, 14, 11)],
            output="logits",
            score=lambda net: float(net(small_input).detach().norm()),
            n_network_trials=2,
        )


def test_help_tells_the_columns_of_every_frame(result, small_network, small_input):
    compared = baselines.compare(
        small_network, small_input, Budget(flops=0.9), methods=["channel_svd"], progress=False
    )
    frames = (
        (SearchResult.pareto_front, result.pareto_front()),
        (SearchResult.layers, result.layers(result.best)),
        (SearchResult.candidates, result.candidates()),
        (SearchResult.history, result.history()),
        (sekron.Plan.to_frame, result.best.to_frame()),
        (baselines.compare, compared),
    )
    for function, frame in frames:
        assert set(told_columns(function)) == set(frame.columns)
        assert "Columns:" in inspect.getdoc(function)
        for name in frame:
            assert COLUMNS[name].meaning[:40] in " ".join(inspect.getdoc(function).split())


def test_a_frame_without_clock_and_score_has_no_other_columns(small_run):
    plain = search.load(small_run)
    for function, frame in (
        (SearchResult.pareto_front, plain.pareto_front()),
        (SearchResult.layers, plain.layers()),
        (SearchResult.candidates, plain.candidates()),
    ):
        assert set(frame) < set(told_columns(function))


@pytest.mark.parametrize("name", COLUMNS)
def test_a_meaning_tells_the_unit(name):
    column = COLUMNS[name]
    assert column.meaning.endswith(".")
    if name.endswith("_ms") or name == "ms":
        assert "illiseconds" in column.meaning
    elif column.kind in UNITS:
        assert re.search(UNITS[column.kind], column.meaning)


def test_the_front_within_a_budget_is_rows_of_the_front(result):
    front = result.pareto_front()
    ms = float(front["latency_ms"].median())
    score = float(front["score"].median())
    dense = result.profile
    for budget, expected in (
        (Budget(), front["flops"] > 0),
        (Budget(flops=0.6), front["flops"] <= int(0.6 * dense.flops)),
        (
            Budget(flops=0.7, params=dense.params // 2),
            (front["flops"] <= int(0.7 * dense.flops)) & (front["params"] <= dense.params // 2),
        ),
        (Budget(latency_ms=ms), front["latency_ms"] <= ms),
        (Budget(speedup=1.2), front["latency_ms"] <= result.timetable.network_ms / 1.2),
        (Budget(min_score=score), front["score"] >= score),
    ):
        rows = result.pareto_front(budget)
        assert rows.index.tolist() == np.flatnonzero(expected).tolist()
        assert (rows["error"] == front["error"][rows.index]).all()
    assert len(result.pareto_front(Budget(flops=1))) == 0
    best = result.pareto_front(Budget(flops=0.6))["error"].min()
    assert best == pytest.approx(result.allocate(Budget(flops=0.6)).loss)


def test_what_was_not_measured_or_scored_cannot_be_asked_for(small_run):
    plain = search.load(small_run)
    with pytest.raises(ValueError, match="a budget of latency needs measurements, got latency"):
        plain.pareto_front(Budget(latency=0.5))
    with pytest.raises(ValueError, match="a least score needs scores, got score"):
        plain.pareto_front(Budget(min_score=0.5))


def test_a_plan_is_a_frame(result):
    plan = result.best
    frame = plan.to_frame()
    assert tuple(frame) == FRAME
    assert len(frame) == len(plan) > 0
    for row in frame.itertuples():
        structure = plan[row.layer]
        assert sekron.Structure.parse(row.structure) == structure
        assert row.weight_shape == structure.weight_shape
        assert (row.family, row.sequence_length) == (structure.family, structure.length)
        assert (row.ranks, row.params) == (structure.ranks, structure.n_params)
        assert row.form == str(plan.form(row.layer))
    layers = result.layers(plan).set_index("layer").loc[frame["layer"]]
    assert frame["params"].tolist() == layers["params_after"].tolist()
    assert frame["form"].tolist() == layers["form"].tolist()
    assert sekron.Plan({}).to_frame().columns.tolist() == list(FRAME)


def test_layers_tell_what_a_plan_costs_in_its_own_forms(result):
    plan = result.best
    turned = [Form(order, plain) for order in (None, (1, 0), (0, 1)) for plain in (False, True)]
    for form in turned:
        name = next(name for name in plan if plan[name].length == 2)
        other = sekron.Plan(plan, {**{n: plan.form(n) for n in plan}, name: form}, result.metrics)
        frame = result.layers(other).set_index("layer")
        fixed = result.profile.flops - sum(layer.flops for layer in result.profile.layers)
        assert fixed + frame["flops_after"].sum() == result.profile.totals(other)["flops"]
        is_own = form == plan.form(name)
        assert np.isnan(frame.loc[name, "ms_after"]) == (not is_own)
