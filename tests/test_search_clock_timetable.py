"""What the clock said, kept and read again, and what it means for candidates not timed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from search import Budget
from search.clock.times import Effort, LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Effect, Timetable
from search.front.layer_options import LayerOptions
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure

SETTING = Setting("a processor", 1, "2.9", "torch.float32", "contiguous", ((2, 10, 13, 11),))
WEIGHT = (12, 10, 3, 3)
CALLS = (Geometry.of(WEIGHT, (7, 6), stride=2), Geometry.of(WEIGHT, (13, 11)))
SPLIT = ("sekron", ((3, 5, 3, 1), (4, 2, 1, 3)))
CHAIN = ("chain", ((12, 1, 3, 1), (1, 10, 1, 3)))
LONG = ("sekron", ((3, 5, 3, 1), (2, 2, 1, 1), (2, 1, 1, 3)))
RANKS = range(1, 10)
DENSE_MS = 4.0


def total(structure, order=None):
    """FLOPs of all calls, one order for all ranks or the cheapest of each."""
    return sum(structure.flops_in(order or structure.cheapest_order(g.stride), g) for g in CALLS)


DENSE_FLOPS = total(Structure.dense(WEIGHT))
DENSE_PARAMS = int(np.prod(WEIGHT))
LAYER = LayerProfile("body.3", "Conv2d", WEIGHT, CALLS, DENSE_FLOPS, DENSE_PARAMS, "")


@pytest.fixture
def table():
    """Two structures, ranks in turn, so that the rows of one are not in one piece."""
    structures = [Structure(*point, (rank,)) for rank in RANKS for point in (SPLIT, CHAIN)]
    return CandidateTable(
        DENSE_FLOPS,
        DENSE_PARAMS,
        points=[SPLIT, CHAIN],
        ranks=[s.ranks for s in structures],
        point=np.array([[SPLIT, CHAIN].index((s.family, s.shapes)) for s in structures]),
        errors=np.linspace(0.9, 0.1, len(structures)),
        flops=np.array([total(s) for s in structures]),
        params=np.array([s.n_params for s in structures]),
    )


def timetable(**timed):
    """Times of `SPLIT`, by rank, and of `CHAIN` likewise."""
    points = {"split": SPLIT, "chain": CHAIN}
    return Timetable(
        SETTING,
        10.0,
        {LAYER.name: LayerTime("key", DENSE_MS)},
        {"key": {points[name]: time for name, time in timed.items()}},
    )


def at(ratios, order=None, matmul=False):
    return TimedPoint(Form(order, matmul), {(rank,): ratio for rank, ratio in ratios.items()})


def rows(table, point):
    return {
        table.ranks[row][0]: row
        for row in range(len(table))
        if table.points[table.point[row]] == point
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "another"),
        ("threads", 3),
        ("torch", "2.8"),
        ("dtype", "torch.float64"),
        ("layout", "channels_last"),
        ("input_shapes", ((3, 10, 13, 11),)),
    ],
)
def test_the_first_difference_of_two_settings(name, value):
    there = replace(SETTING, **{name: value})
    here = getattr(SETTING, name)
    assert there.difference(SETTING) == f"{name} {value} there, {here} here"
    assert there.difference(there) == ""


def test_what_was_timed_has_exactly_its_ratio(table):
    times = {1: 0.3, 4: 0.29, 6: 0.7, 9: 1.4}  # a clock is not monotonous
    found = timetable(split=at(times)).estimate(LAYER, table)
    of_rank = rows(table, SPLIT)
    assert {rank: found.ratios[of_rank[rank]] for rank in times} == times


@pytest.mark.parametrize("order", [None, (0, 1), (1, 0)])
def test_between_timed_ranks_flops_decide(table, order):
    found = timetable(split=at({7: 0.9, 3: 0.4}, order)).estimate(LAYER, table)
    ratios = {rank: found.ratios[row] for rank, row in rows(table, SPLIT).items()}
    cost = {rank: total(Structure(*SPLIT, (rank,)), order) for rank in RANKS}
    for rank in range(3, 8):
        share = (cost[rank] - cost[3]) / (cost[7] - cost[3])
        assert ratios[rank] == pytest.approx(0.4 + share * 0.5, rel=1e-12)
    assert ratios[1] == ratios[2] == 0.4
    for rank in (8, 9):
        assert ratios[rank] == pytest.approx(0.9 * cost[rank] / cost[7], rel=1e-12)


def test_one_timed_rank_serves_all(table):
    found = timetable(chain=at({5: 0.6})).estimate(LAYER, table)
    for rank, row in rows(table, CHAIN).items():
        cost = [total(Structure(*CHAIN, (r,))) for r in (5, rank)]
        assert found.ratios[row] == pytest.approx(0.6 * max(cost[1] / cost[0], 1.0), rel=1e-12)


def test_what_is_like_nothing_timed_is_unknown(table):
    found = timetable(chain=at({5: 0.6}, matmul=True)).estimate(LAYER, table)
    unknown = [*rows(table, SPLIT).values()]
    assert np.isnan(found.ratios[unknown]).all()
    assert [found.forms[row] for row in unknown] == [DEFAULT_FORM] * len(unknown)
    np.testing.assert_array_equal(found.flops[unknown], table.flops[unknown])
    assert np.isnan(timetable().estimate(LAYER, table).ratios).all()


@pytest.mark.parametrize("order", [None, (0, 1), (1, 0)])
def test_flops_are_those_of_the_form_that_was_timed(table, order):
    before = table.flops.copy()
    found = timetable(split=at({3: 0.4}, order, True)).estimate(LAYER, table)
    for row in range(len(table)):
        is_timed = table.points[table.point[row]] == SPLIT
        form = Form(order, True) if is_timed else DEFAULT_FORM
        assert found.forms[row] == form
        assert found.flops[row] == total(table.structure(row), form.order)
    np.testing.assert_array_equal(table.flops, before)


def test_another_order_costs_otherwise():
    """Otherwise the test above would show nothing."""
    structure = Structure(*SPLIT, (3,))
    assert total(structure, (0, 1)) != total(structure, (1, 0))


def test_what_is_measured_next_makes_another_timetable():
    empty, plan = timetable(), Plan({"body.3": Structure(*CHAIN, (3,))})
    time = NetworkTime(0.75, 0.3, 1.5, 1)
    full = empty.with_network(plan, time).with_winner("question", plan, Effort(math.inf, 0))
    full = full.with_point("key", CHAIN, at({3: 0.5})).with_point("key", CHAIN, at({4: 0.6}))
    assert (full.of(plan), full.winners["question"]) == (time, plan)
    assert full.point("body.3", CHAIN) == at({4: 0.6})
    assert empty == timetable()
    assert empty.of(plan) is None
    assert full.of(Plan({"body.3": Structure(*CHAIN, (3,))}, {"body.3": Form((1, 0))})) is None


def effect_of(*networks):
    """Of `(ratio, saved)` or `(ratio, saved, n_layers)` each."""
    times = {
        str(i): NetworkTime(ratio, saved, 1.0, *(n_layers or [0]))
        for i, (ratio, saved, *n_layers) in enumerate(networks)
    }
    return replace(timetable(), networks=times).effect()


def test_realized_is_the_least_squares_slope():
    rng = np.random.default_rng(0)
    saved = rng.uniform(0.05, 0.6, 17)
    ratios = 1 - 0.8 * saved + rng.normal(0, 0.03, 17)
    unknown = (0.3, float("nan"))
    found = effect_of(unknown, *zip(ratios, saved, strict=True), unknown)
    oracle = np.linalg.lstsq(saved[:, None], 1 - ratios)[0][0]
    assert found.realized == pytest.approx(oracle, rel=1e-9)
    assert found.overhead == pytest.approx(0.0, abs=1e-9)


def test_what_replaced_layers_cost_besides_is_told_apart():
    draws = np.random.default_rng(0)
    saved, n_layers = draws.uniform(0.05, 0.6, 17), draws.integers(1, 20, 17)
    networks = zip(1 - 0.9 * saved + 0.004 * n_layers, saved, n_layers, strict=True)
    found = effect_of(*networks)
    assert found.realized == pytest.approx(0.9, rel=1e-4)
    assert found.overhead == pytest.approx(0.004, rel=1e-3)
    assert found.ratio(0.5, 10) == pytest.approx(0.59, rel=1e-3)


def test_one_network_alone_tells_what_is_realized():
    found = effect_of((0.8, 0.25, 5))
    assert found.realized == pytest.approx(0.8, rel=1e-3)
    assert found.overhead == pytest.approx(0.0, abs=1e-4)


def test_a_network_that_saves_nothing_has_an_overhead():
    found = effect_of((1.1, 0.2, 5))
    assert found.realized == pytest.approx(0.5, rel=1e-3)
    assert found.ratio(0.2, 5) == pytest.approx(1.1, rel=1e-3)


@pytest.mark.parametrize("networks", [[], [(0.7, float("nan"))], [(1.0, 0.0), (1.1, -0.2)]])
def test_nothing_known_is_taken_as_all_realized(networks):
    assert effect_of(*networks) == Effect(1.0, 0.0)


@pytest.mark.parametrize(("ratio", "realized"), [(1.5, 0.5), (0.99, 0.5), (0.1, 2.0), (0.5, 1.25)])
def test_realized_stays_within_reason(ratio, realized):
    assert effect_of((ratio, 0.4)).realized == pytest.approx(realized)


def test_an_overhead_burdens_what_is_replaced(table):
    known = timetable(split=at({rank: rank / 5 for rank in RANKS}))
    free = LayerOptions.of(LAYER, table, known)
    np.testing.assert_array_equal(free.network_ms, free.ms)
    networks = {"a": NetworkTime(1.3, 0.2, 1.0, 10)}
    slower = replace(known, networks=networks)
    burdened = LayerOptions.of(LAYER, table, slower, slower.overhead_ms)
    effect = slower.effect()
    extra = effect.overhead / effect.realized * known.network_ms
    assert extra > 0
    np.testing.assert_array_equal(burdened.ms, free.ms)
    np.testing.assert_allclose(burdened.network_ms[:-1], free.ms[:-1] + extra)
    assert burdened.network_ms[-1] == free.ms[-1]


@pytest.fixture
def options(table):
    """`SPLIT` gets slower than dense with its rank, `CHAIN` was not timed."""
    times = {rank: rank / 5 for rank in RANKS}
    return LayerOptions.of(LAYER, table, timetable(split=at(times)))


def chosen(options, table, **limits):
    """What is allowed: `(point, rank)` of the rows, None for the dense layer."""
    return {
        None if row == len(table) else (table.points[table.point[row]], table.ranks[row][0])
        for row in options.allowed(Budget(**limits))
    }


def test_what_is_not_faster_than_dense_is_refused(options, table):
    faster = {(SPLIT, rank) for rank in range(1, 5)}  # rank 5 takes exactly as long
    unknown = {(CHAIN, rank) for rank in RANKS}
    assert chosen(options, table, flops=0.5) == faster | unknown | {None}
    assert chosen(options, table) == faster | unknown | {None}


def test_what_is_slower_saves_parameters(options, table):
    every = {(point, rank) for point in (SPLIT, CHAIN) for rank in RANKS} | {None}
    assert chosen(options, table, params=0.5) == every
    assert chosen(options, table, params=0.5, flops=0.5) == every


@pytest.mark.parametrize("limit", [{"latency": 0.5}, {"latency_ms": 3.0}, {"speedup": 2}])
def test_a_limit_of_latency_admits_what_was_timed(options, table, limit):
    faster = {(SPLIT, rank) for rank in range(1, 5)}
    timed = {(SPLIT, rank) for rank in RANKS}
    assert chosen(options, table, **limit) == faster | {None}
    assert chosen(options, table, params=0.5, **limit) == timed | {None}


def test_without_a_timetable_everything_is_unknown(table):
    found = LayerOptions.of(LAYER, table, None)
    assert np.isnan(found.ms).all()
    assert len(found.allowed(Budget(flops=0.5))) == len(table) + 1
    assert found.forms == (DEFAULT_FORM,) * (len(table) + 1)
    np.testing.assert_array_equal(found.flops, [*table.flops, DENSE_FLOPS])
    np.testing.assert_array_equal(found.params, [*table.params, DENSE_PARAMS])
    np.testing.assert_array_equal(found.losses, [*table.errors**2, 0.0])


def test_milliseconds_are_ratios_of_the_dense_layer(options, table):
    assert options.ms[-1] == DENSE_MS
    for rank, row in rows(table, SPLIT).items():
        assert options.ms[row] == pytest.approx(DENSE_MS * rank / 5)


def test_nothing_is_admitted_but_dense_where_nothing_was_timed(table):
    found = LayerOptions.of(LAYER, table, timetable())
    assert chosen(found, table, latency=0.9) == {None}
    assert chosen(found, table, latency=0.9, params=0.9) == {None}
