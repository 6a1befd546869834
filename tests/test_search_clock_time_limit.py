"""The limit of all measuring, in a world that has its own clock; no test here looks at the time."""

import itertools
import math
import re
import warnings
from contextlib import suppress

import pytest

import search
from search import Budget, InfeasibleBudget
from search.clock.run_queue import RunQueue
from search.clock.time_limit import TimeLimit
from search.front.choices import Choices
from search.whole_network import by_score
from tests.test_search_whole_network_within_latency import World, WorldsStopwatch, run

ROUNDS = 10
"""Of the shortest race."""


class Clock:
    """Seconds that pass when somebody says so."""

    def __init__(self):
        self.seconds = 100.0

    def __call__(self):
        return self.seconds


class SlowWorld(World):
    """A world in which measuring takes the seconds that it is given, but for the fewest rounds."""

    def __init__(self, profile, forward_s):
        super().__init__(profile)
        self.now, self.forward_s = Clock(), forward_s
        self.layer_s = self.network_s = 0.0  # to make one ready
        self.queued_s = 0.0  # until no other process measures
        self.raced = []  # (what, seconds that were given, seconds that it took)

    def stopwatch(self, model, example, profile, runtime):
        return SlowStopwatch(self, model, example, profile, runtime)

    def race(self, queue, what, n_sides, forward_s, given, most):
        taken = max(ROUNDS * n_sides * forward_s, min(given, most))
        self.raced.append((what, given, taken))
        self.now.seconds += self.queued_s + taken
        queue.queued += self.queued_s


class SlowStopwatch(WorldsStopwatch):
    def start(self, seconds):
        self.made("network", 1)
        self.world.race(self.run_queue, "dense", 1, self.world.forward_s, seconds, math.inf)
        return super().start(seconds)

    def candidate_ratios(self, layer, sides, seconds):
        self.made("layer", 1 + len(sides))
        share = self.world.forward_s / len(self.layers)
        self.world.race(self.run_queue, "layer", 1 + len(sides), share, seconds, 0.5)
        return super().candidate_ratios(layer, sides, seconds)

    def network_ratio(self, small, seconds):
        self.made("network", 1)
        self.world.race(self.run_queue, "network", 2, self.world.forward_s, seconds, math.inf)
        return super().network_ratio(small, seconds)

    def made(self, what, number):
        """Let the time pass that it takes to make something ready in a runtime."""
        seconds = getattr(self.world, f"{what}_s")
        setattr(self.sides, f"{what}_seconds", seconds)
        self.world.now.seconds += number * seconds


@pytest.fixture
def world(small_network, small_input):
    return SlowWorld(search.profile(small_network, small_input), forward_s=1e-3)


def test_only_what_runs_counts():
    clock = Clock()
    limit = TimeLimit(10.0, clock)
    with limit.running():
        clock.seconds += 2.0
        assert (limit.spent, limit.left(), limit.left(0.5)) == (2.0, 8.0, 3.0)
    clock.seconds += 100.0
    assert (limit.spent, limit.left()) == (2.0, 8.0)
    with suppress(KeyError), limit.running():
        clock.seconds += 4.0
        raise KeyError
    assert (limit.spent, limit.left(), limit.left(0.5)) == (6.0, 4.0, 0.0)


def test_no_time_passes_while_others_measure():
    clock, queue = Clock(), RunQueue()
    limit = TimeLimit(10.0, clock)
    limit.stop_for(queue)
    for spent in (2.0, 4.0):
        with limit.running():
            clock.seconds += 5.0
            queue.queued += 3.0
            assert limit.spent == spent
        assert limit.spent == spent


def test_a_search_that_waits_for_others_measures_as_much(world, small_network, small_input):
    arguments = {"budget": Budget(flops=0.6), "measure_seconds": 8.0}
    run(world, small_network, small_input, **arguments)
    alone, world.raced, world.queued_s = world.raced, [], 50.0
    run(world, small_network, small_input, **arguments)
    assert [what for what, *_ in world.raced] == [what for what, *_ in alone]


@pytest.mark.parametrize("limits", [{"latency": 0.8}, {"flops": 0.6}, {}], ids=str)
def test_the_limit_is_of_all_measuring(world, small_network, small_input, limits):
    arguments = {"budget": Budget(**limits), "measure_seconds": 8.0}
    run(world, small_network, small_input, **arguments)
    spent = sum(taken for *_, taken in world.raced)
    assert world.now.seconds == pytest.approx(100.0 + spent)
    assert 6.0 < spent <= 8.0
    assert {what for what, *_ in world.raced} == {"dense", "layer", "network"}


@pytest.mark.parametrize("slow", [{"layer_s": 0.1}, {"network_s": 1.0}], ids=str)
def test_making_ready_in_a_runtime_counts_too(world, small_network, small_input, slow, capsys):
    for name, seconds in slow.items():
        setattr(world, name, seconds)
    run(
        world,
        small_network,
        small_input,
        budget=Budget(flops=0.6),
        measure_seconds=12.0,
        progress=True,
    )
    raced = [what for what, *_ in world.raced]
    assert raced.count("layer") > 2
    assert raced.count("network") > 1
    assert world.now.seconds <= 100.0 + 12.0
    assert "no time for" in capsys.readouterr().err


# The scores count and look at no network; whether the time suffices, each case says otherwise.
@pytest.mark.filterwarnings("ignore:networks are scored without re-estimated")
@pytest.mark.filterwarnings("ignore:`measure_seconds` of 40 did not suffice")
@pytest.mark.parametrize("limits", [{"flops": 0.6}, {"latency": 0.9}, {"min_score": 1.0}], ids=str)
def test_plans_that_score_better_are_timed_while_there_is_time(
    world, small_network, small_input, limits, monkeypatch, capsys
):
    monkeypatch.setattr(by_score, "REACH", 6.0)  # so that trials differ
    world.forward_s = 0.1
    scores = itertools.count(1.0)
    run(
        world,
        small_network,
        small_input,
        budget=Budget(**limits),
        measure_seconds=40.0,
        n_network_trials=12,
        score=lambda _: next(scores),
        progress=True,
    )
    assert "some plans that score better; raise `measure_seconds`" in capsys.readouterr().err
    shortest = 2 * ROUNDS * world.forward_s
    assert sum(taken for *_, taken in world.raced) <= 40.0 + 2 * shortest


def test_a_score_gets_a_part_of_the_time(world, small_network, small_input):
    arguments = {"budget": Budget(flops=0.6), "measure_seconds": 12.0, "n_network_trials": 12}

    def score(network):
        world.now.seconds += 50.0  # is no measuring
        return -sum(p.detach().abs().sum().item() for p in network.parameters())

    with warnings.catch_warnings():
        # The network has batch norm and the search no calibration; not what is looked at here.
        warnings.filterwarnings("ignore", message="networks are scored without re-estimated")
        result = run(world, small_network, small_input, score=score, **arguments)
    assert sum(taken for *_, taken in world.raced) <= 12.0 + 0.1
    assert result.timetable.of(result.best) is not None


def test_when_time_is_up_the_plan_for_the_budget_was_still_measured(
    world, small_network, small_input, capsys
):
    world.forward_s = 0.5  # twenty of them are the shortest race of a network
    arguments = {"budget": Budget(latency=0.9), "measure_seconds": 15, "progress": True}
    late = (
        r"^`measure_seconds` of 15 did not suffice to measure the plan for latency ≤ 90\.0%, "
        r"which took \d+\.\d s with the fewest runs; raise it\.$"
    )
    with pytest.warns(UserWarning, match=late):
        result = run(world, small_network, small_input, **arguments)
    assert result.timetable.of(result.best).ratio <= 0.9
    assert world.of_plan(result.profile, result.best) <= 0.9
    assert {taken for what, _, taken in world.raced if what == "network"} == {10.0}
    front = result.pareto_front()
    assert 0 < front["latency_ms"].isna().sum() < len(front)
    left_out = (
        r"measured for \d\d\.\d s of 15 s; no time for \d+ of \d+ structures of layers, "
        r"most plans of the front; raise `measure_seconds` to measure more\."
    )
    assert re.search(left_out, capsys.readouterr().err)


def test_where_no_layer_was_timed_the_time_is_what_is_lacking(world, small_network, small_input):
    world.forward_s = 5.0
    with pytest.raises(InfeasibleBudget, match=r"or `measure_seconds`[,.]"):
        run(world, small_network, small_input, budget=Budget(latency=0.9), measure_seconds=5)


@pytest.mark.filterwarnings("ignore:`measure_seconds` of 100 did not suffice")
@pytest.mark.parametrize("fast", [0.6, 0.0])
def test_when_time_is_up_and_no_plan_holds_the_fastest_is_the_last(
    world, small_network, small_input, fast
):
    """However little its layers take: a network misses unless that is less than `fast`."""
    world.network_s = 30.0
    late, right = [], world.network_ratio

    def network_ratio(profile, structures, forms):
        ratio = right(profile, structures, forms)
        if world.now.seconds - world.raced[-1][-1] - world.network_s >= 100.0 + 100.0:
            late.append(structures)
        return ratio if ratio < fast else max(ratio, 0.93)

    world.network_ratio = network_ratio
    arguments = {"budget": Budget(latency=0.9), "measure_seconds": 100.0}
    if fast == 0.0:
        with pytest.raises(
            InfeasibleBudget, match=r"got latency ≤ 90\.0%; .* or `measure_seconds`"
        ):
            run(world, small_network, small_input, **arguments)
    else:
        result = run(world, small_network, small_input, **arguments)
        assert dict(result.best) == late[-1]
        assert result.timetable.of(result.best).ratio <= 0.9
    assert [plan for plan in late if plan != late[0]] == []
    assert len(late) == (1 if fast == 0.0 else 2)  # what holds is raced twice


def test_a_plan_for_flops_is_measured_once_where_time_is_up(world, small_network, small_input):
    world.forward_s, world.overhead = 5.0, 10.0
    arguments = {"budget": Budget(flops=0.6), "measure_seconds": 5}
    with (
        pytest.warns(UserWarning, match=r"did not suffice to measure the plan for flops ≤ 60\.0%"),
        pytest.warns(UserWarning, match=r"no time to look for one that is not slower; raise `mea"),
    ):
        result = run(world, small_network, small_input, **arguments)
    assert world.networks == 1
    assert result.timetable.of(result.best).ratio > 1.0


@pytest.mark.parametrize("limits", [{"flops": 0.6}, {"latency": 0.8}], ids=str)
def test_integer_programs_count_too(world, small_network, small_input, limits, monkeypatch, capsys):
    """The front is searched for as long as there is time, however long its programs take."""
    solve, left, spent = Choices.solve, TimeLimit.left, []

    def slowly(*arguments, **named):
        world.now.seconds += 0.2
        return solve(*arguments, **named)

    def watched(limit, *share):
        spent.append(limit.spent)
        return left(limit, *share)

    monkeypatch.setattr(Choices, "solve", slowly)
    monkeypatch.setattr(TimeLimit, "left", watched)
    arguments = {"budget": Budget(**limits), "measure_seconds": 12.0, "progress": True}
    run(world, small_network, small_input, **arguments)
    assert spent[-1] <= 12.0 + 0.2
    assert "most plans of the front" in capsys.readouterr().err
