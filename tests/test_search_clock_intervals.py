"""Every time has its 95 % interval, and one that is wide decides nothing."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import search
from search import Budget
from search.clock.candidate_times import Wanted, forms
from search.clock.race import EAGER, interval
from search.clock.setting import layout_of
from search.clock.steadiness import UNSTEADY, Steadiness
from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import TimeLimit
from search.clock.times import LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Timetable
from search.clock.timetable_record import from_json, to_json
from search.front.choices import Member
from search.front.frames import candidates_frame
from search.front.layer_options import LayerOptions
from search.front.limits import is_within
from search.whole_network.plan_clock import PlanClock
from sekron import Plan
from sekron.layers.operations import Form
from sekron.structures.structure import Structure
from tests.test_search_runtimes import SPLIT
from tests.test_search_whole_network_within_latency import run, world
from tests.unsealed import unsealed

__all__ = ["world"]  # fixtures are found by their names

ADD = Steadiness.add  # which other tests are spared
SETTING = Setting("a processor", 1, "2.9", "torch.float32", "contiguous", ((2, 3, 13, 11),))
WIDE, TIGHT = (0.8, 1.2, 1.6), (1.18, 1.2, 1.22)


@pytest.fixture
def timed_rows(small_run):
    """A layer, its table, and the rows of one of its structures."""
    result = search.load(small_run)
    layer = result.profile.searched[0]
    table = result.tables[layer.name]
    point = next(i for i in range(len(table.points)) if (table.point == i).sum() > 2)
    return layer, table, np.flatnonzero(table.point == point)


def options_of(layer, table, rows, ratios):
    """The layer as the allocation sees it, the first rows with these ratios."""
    times = TimedPoint(Form())
    for row, ratio in zip(rows, ratios, strict=False):
        times = times.with_time(table.ranks[row], ratio)
    made = Timetable(SETTING, 10.0, {layer.name: LayerTime("key", 2.0, 1.9, 2.1)})
    return LayerOptions.of(
        layer, table, made.with_point("key", table.points[table.point[rows[0]]], times)
    )


@pytest.mark.parametrize(
    ("ratio", "is_refused"),
    [(TIGHT, True), (WIDE, False), ((1.01, 1.2, 1.6), True), ((0.98, 0.99, 1.01), False)],
)
def test_only_what_is_surely_slower_is_refused(timed_rows, ratio, is_refused):
    layer, table, rows = timed_rows
    options = options_of(layer, table, rows, len(rows) * [ratio])
    assert options.is_slower[rows].all() == options.is_slower[rows].any() == is_refused
    assert (rows[0] not in options.allowed(Budget(flops=0.5))) == is_refused
    assert rows[0] in options.allowed(Budget(params=0.5))
    np.testing.assert_allclose(options.ms[rows], 2 * ratio[1])  # the estimate is the median


def test_a_candidate_has_its_interval_where_it_was_timed(timed_rows):
    layer, table, rows = timed_rows
    options = options_of(layer, table, rows, [(0.48, 0.5, 0.51), WIDE])
    frame = candidates_frame(layer, table, options)
    columns = ["latency_low_ms", "latency_ms", "latency_high_ms"]
    assert frame.iloc[0][columns].tolist() == [1.9, 2.0, 2.1]  # the dense layer
    by_row = frame.drop(index=frame.index[0]).reset_index(drop=True)
    tight, wide, between = (by_row.iloc[row] for row in rows[:3])
    assert tight[columns].tolist() == pytest.approx([0.96, 1.0, 1.02])
    assert wide[columns].tolist() == pytest.approx([1.6, 2.4, 3.2])
    assert between[columns].isna().tolist() == [True, False, True]
    assert tight["speedup"] == pytest.approx(2.0)
    assert math.isnan(wide["speedup"])
    assert between["speedup"] > 0


def test_the_form_is_chosen_by_the_slow_end(small_network, small_input):
    structure = Structure.parse("sekron:3x2x1x1,4x4x3x3@6")
    layer = search.profile(small_network, small_input).searched[0]
    lucky, steady = (0.3, 0.5, 0.9), (0.51, 0.52, 0.53)
    tried = forms(layer, structure, EAGER)
    assert len(tried) > 1
    stopwatch = SimpleNamespace(
        candidate_ratios=lambda *_: [lucky, steady, *(len(tried) - 2) * [lucky]],
        sides=SimpleNamespace(runtime=EAGER),
        without_memory=set(),
    )
    times = Timetable(SETTING, 10.0, {layer.name: LayerTime("key", 2.0)})
    timed = Wanted(layer, [structure]).timed(stopwatch, times, lambda: 1.0)
    point = timed.point(layer.name, (structure.family, structure.shapes))
    assert point.form == tried[1]
    assert (point.ratios, point.ends) == ({(6,): 0.52}, {(6,): (0.51, 0.53)})


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime"])
def test_a_stopwatch_tells_all_intervals(small_network, small_input, runtime, monkeypatch):
    rounds = np.linspace(0.9, 1.1, 30)
    raced = []

    def race(runs, *_, **__):
        raced.append([side() for side in runs])
        return np.array([rounds * (i + 1) for i in range(len(runs))])

    monkeypatch.setattr("search.clock.stopwatch.race", race)
    measured = search.profile(small_network, small_input)
    stopwatch = Stopwatch(small_network, small_input, measured, runtime)
    random_numbers = torch.get_rng_state()
    low, _, high = interval(rounds)
    if runtime == "torch":
        monkeypatch.setattr(stopwatch, "_names", list)  # which ran once alone
        monkeypatch.setattr(stopwatch, "layers", ())
    times = stopwatch.start(1.0)
    assert times.network_low_ms == pytest.approx(1e3 * low)
    assert times.network_high_ms == pytest.approx(1e3 * high)
    for layer in times.layers.values():
        assert 0 < layer.low_ms < layer.dense_ms < layer.high_ms
    ((ratio_low, ratio, ratio_high),) = stopwatch.candidate_ratios(
        measured.searched[0], [(SPLIT, Form())], 1.0
    )
    assert ratio_low <= ratio <= ratio_high
    stopwatch.compressed(Plan({measured.searched[0].name: SPLIT}))
    assert torch.equal(torch.get_rng_state(), random_numbers)


def test_intervals_are_recorded_and_older_records_are_read():
    point, plan = (SPLIT.family, SPLIT.shapes), Plan({"3": SPLIT})
    timed = TimedPoint(Form()).with_time((2,), (0.4, 0.5, 0.6)).with_time((6,), 3 * (math.inf,))
    times = Timetable(
        SETTING, 9.0, {"3": LayerTime("key", 1.0, 0.9, 1.1)}, waited=0.1, spread=0.2
    ).with_point("key", point, timed)
    times = times.with_network(plan, NetworkTime(0.5, 0.1, 1.0, 1, 0.4, 0.6, True))
    assert timed.ends == {(2,): (0.4, 0.6)}
    text = to_json(times)
    again = from_json(text, "latency.json")
    assert (again.layers, again.timed, again.networks) == (
        times.layers,
        times.timed,
        times.networks,
    )
    assert (again.waited, again.spread) == (0.1, 0.2)
    old = unsealed(text) | {"version": 4}
    del old["spread"], old["network_low_ms"], old["network_high_ms"]
    del old["layers"]["3"]["low_ms"], old["layers"]["3"]["high_ms"]
    del old["networks"][plan.digest]["is_confirmed"], old["timed"][0]["ends"]
    before = from_json(json.dumps(old), "latency.json")
    assert before.point("3", point) == TimedPoint(Form(), timed.ratios)
    assert before.point("3", point).decided((2,)) == 0.5
    assert math.isnan(before.layers["3"].low_ms)
    assert not before.of(plan).is_confirmed


def test_intervals_of_other_ranks_are_damage():
    point = SPLIT.family, SPLIT.shapes
    timed = TimedPoint(Form()).with_time((2,), (0.4, 0.5, 0.6))
    times = Timetable(SETTING, 9.0, {"3": LayerTime("key", 1.0)}).with_point("key", point, timed)
    document = unsealed(to_json(times))
    document["timed"][0]["ends"] = []
    with pytest.raises(ValueError, match=r"1 ranks, 0 intervals - at `\$\.timed\[0\]`"):
        from_json(json.dumps(document), "latency.json")


def test_a_wide_time_is_within_a_limit_only_with_its_slow_end(world, small_network, small_input):
    found = run(world, small_network, small_input)
    measured = found.timetable.of(found.best)
    limit = measured.ratio * 1.05
    wide = replace(measured, low=0.01, high=0.99)
    choices = found.choices.retimed(found.timetable.with_network(found.best, wide))
    front = search.SearchResult(choices, found.budget, found.best).pareto_front()
    row = next(i for i, plan in enumerate(front["plan"]) if plan == found.best)
    assert math.isnan(front["speedup"][row])
    assert front["latency_high_ms"][row] == pytest.approx(0.99 * found.timetable.network_ms)
    for share, is_in in ((limit, False), (0.995, True)):
        within = is_within(front, Budget(latency=share), choices, None)
        assert within[row] == is_in


def test_a_time_of_one_race_holds_no_limit():
    """Whatever search it is of: of many plans of a front the one that seems to was lucky."""
    plan = Plan({"3": SPLIT})
    member = Member(plan, 0.1, {}, 0.3)
    known = Timetable(SETTING, 10.0, {"3": LayerTime("key", 1.0)})
    raced = []

    def network_ratio(*_):
        raced.append(1)
        return 0.79, 0.8, 0.81

    stopwatch = SimpleNamespace(
        network_ratio=network_ratio,
        compressed=lambda _: None,
        sides=SimpleNamespace(network_seconds=0.0),
        run_queue=SimpleNamespace(share=0.0),
        steadiness=SimpleNamespace(spread=0.0, median_ms=0.0),
    )

    def clock_that_knows(ratio):
        raced.clear()
        times = known.with_network(
            plan, NetworkTime(ratio, 0.3, 1.0, 1, ratio - 0.01, ratio + 0.01)
        )
        return PlanClock(stopwatch, times, TimeLimit(1.0), lambda _: None, lambda _: None)

    for ratio, limit, holds, n_races in (
        (0.5, 0.6, False, 1),
        (0.9, 0.6, False, 0),
        (0.78, 0.9, True, 1),
    ):
        clock = clock_that_knows(ratio)
        excesses = [clock.excess(member, Budget(latency=limit)) for _ in range(2)]
        assert [excess <= 0 for excess in excesses] == [holds, holds]
        assert len(raced) == n_races
        assert clock.timetable.of(plan).is_confirmed == (n_races > 0)
    assert clock.timetable.of(plan).ratio == 0.8


@pytest.mark.parametrize(
    ("network_ms", "seconds", "expected"),
    [
        (10.0, 1000.0, 4.0),
        (1000.0, 1000.0, 40.0),  # twenty rounds of both
        (1000.0, 100.0, 25.0),  # as many as a quarter of the time allows for
    ],
)
def test_a_slow_network_gets_as_many_rounds_as_an_interval_takes(network_ms, seconds, expected):
    plan, given = Plan({"3": SPLIT}), []

    def network_ratio(_, seconds):
        given.append(seconds)
        return 0.8, 0.8, 0.8

    stopwatch = SimpleNamespace(
        network_ratio=network_ratio,
        compressed=lambda _: None,
        activations=lambda _: 1.0,
        sides=SimpleNamespace(network_seconds=0.0),
        run_queue=SimpleNamespace(share=0.0),
        steadiness=SimpleNamespace(spread=0.0, median_ms=0.0),
    )
    limit = TimeLimit(seconds, lambda: 0.0)
    known = Timetable(SETTING, network_ms, {"3": LayerTime("key", 1.0)})
    clock = PlanClock(stopwatch, known, limit, lambda _: None, lambda _: None)
    clock.time(Member(plan, 0.1, {}, 0.2))
    assert given == [expected]


def test_a_dense_time_that_is_not_known_is_told_and_measured_anew(
    world, small_network, small_input, tmp_path
):
    """What was timed in turn with the dense network stays."""
    make, width = world.stopwatch, [0.2]

    def stopwatch(*arguments):
        found = make(*arguments)
        start = found.start

        def wide(seconds):
            times = start(seconds)
            ms, half = times.network_ms, width[0] / 2
            return replace(times, network_low_ms=(1 - half) * ms, network_high_ms=(1 + half) * ms)

        found.start = wide
        return found

    world.stopwatch = stopwatch
    ask = {"budget": Budget(latency=0.7), "run": tmp_path}
    told = r"dense network is only known to lie between .* ms; run the same search again, with more"
    with pytest.warns(UserWarning, match=told):
        first = run(world, small_network, small_input, **ask)
    width[0] = 0.05
    starts, before = world.starts, first.timetable.networks
    again = run(world, small_network, small_input, **ask)
    assert world.starts == starts + 1
    after = again.timetable.networks
    assert {name: after[name].ratio for name in before} == {n: t.ratio for n, t in before.items()}
    assert again.best == first.best
    run(world, small_network, small_input, **ask)
    assert world.starts == starts + 1


@pytest.mark.parametrize(
    ("races", "expected"),
    [
        ([np.full(20, 3.0)], 0.0),
        ([np.full(20, 1.0), np.full(20, 2.0)], 1.0 / 1.5),  # it drifts from race to race
        ([np.tile([1.0, 2.0], 10), np.tile([1.0, 2.0], 10)], 1.0 / 1.5),  # from round to round
        ([np.append(np.full(39, 1.0), 50.0)], 0.0),  # one is stray
        ([], 0.0),
    ],
)
def test_the_spread_tells_drift_and_noise(races, expected):
    steadiness = Steadiness()
    for race in races:
        ADD(steadiness, race)
    assert steadiness.spread == pytest.approx(expected)


def test_an_unsteady_machine_is_told_and_measured_anew(world, small_network, small_input, tmp_path):
    """Where the system does not tell who waits for a processor, too."""
    spread, make = [0.8], world.stopwatch

    def stopwatch(*arguments):
        found = make(*arguments)
        found.steadiness = SimpleNamespace(spread=spread[0], median_ms=0.0, add=lambda _: None)
        return found

    world.stopwatch = stopwatch
    ask = {"budget": Budget(flops=0.6), "run": tmp_path}
    with pytest.warns(UserWarning, match=r"too busy .* dense network are spread over 80% of it,"):
        run(world, small_network, small_input, **ask)
    spread[0] = UNSTEADY / 2
    with pytest.warns(UserWarning, match=r"on a busy machine; they are measured anew"):
        run(world, small_network, small_input, **ask)
    starts = world.starts
    run(world, small_network, small_input, **ask)  # in quiet: nothing is said or measured
    assert world.starts == starts
    spread[0] = 0.8
    world.slowness = 10.0  # no plan holds the budget, or the machine is to blame
    with (
        pytest.warns(UserWarning, match=r"too busy .* dense network are spread over 80% of it,"),
        pytest.raises(search.InfeasibleBudget),
    ):
        run(world, small_network, small_input, budget=Budget(latency=0.5))


@pytest.mark.parametrize(
    ("x", "layout"),
    [
        (torch.zeros(2, 3, 4, 5), "contiguous"),
        (torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), "channels_last"),
        (
            torch.zeros(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d),
            "channels_last",
        ),
        (torch.zeros(2, 3, 4, 9)[..., :5], "(108, 36, 9, 1)"),
        (torch.zeros(2, 4, 3).mT, "(12, 1, 3)"),
    ],
    ids=["contiguous", "images", "volumes", "slice", "transposed"],
)
def test_the_order_in_memory_is_told(x, layout):
    assert layout_of(x) == layout
