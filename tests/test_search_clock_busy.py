"""A clock that knows when it is being lied to: intervals, second races, a busy machine."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import search
from search import Budget
from search.clock import run_queue
from search.clock.run_queue import BUSY, RunQueue
from search.clock.time_limit import TimeLimit
from search.clock.times import Effort, NetworkTime, Setting
from search.clock.timetable import Timetable
from search.whole_network.plan_clock import PlanClock, agreed
from sekron import Plan
from tests.test_search_whole_network_within_latency import World, run, world

__all__ = ["world"]  # fixtures are found by their names

ALONE = Path("/proc/self/task")


class Lying(World):
    """A world whose clock says of some networks what a busy machine would say."""

    def __init__(self, profile, lie):
        super().__init__(profile)
        self.profile = profile
        self.lie, self.asked = lie, {}

    def stopwatch(self, model, example, profile, runtime):
        found = super().stopwatch(model, example, profile, runtime)
        truly = found.network_ratio

        def network_ratio(small, seconds):
            _, ratio, _ = truly(small, seconds)
            self.asked[ratio] = self.asked.get(ratio, 0) + 1
            return self.lie(ratio, self.asked[ratio])

        found.network_ratio = network_ratio
        return found


def close(ratio, _=1):
    return 0.99 * ratio, ratio, 1.01 * ratio


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0.8, 0.9, 1.0), (0.85, 0.88, 0.9), (0.85, 0.88, 0.9)),  # they meet: the tighter one
        ((0.8, 0.9, 1.0), (0.5, 0.9, 1.5), (0.8, 0.9, 1.0)),
        ((0.5, 0.55, 0.6), (0.8, 0.9, 1.0), (0.5, 0.9, 1.0)),  # they do not: both, the slower
        ((0.8, 0.9, 1.0), (0.5, 0.55, 0.6), (0.5, 0.9, 1.0)),
    ],
)
def test_two_measurements_agree_or_are_wide(first, second, expected):
    assert agreed(first, second) == expected


@pytest.mark.parametrize(
    ("low", "high", "is_sure"),
    [(0.96, 1.04, True), (0.9, 1.02, False), (math.nan, math.nan, True)],
)
def test_a_time_is_sure_where_its_interval_is_tight(low, high, is_sure):
    assert NetworkTime(1.0, 0.2, 1.0, 1, low, high).is_sure is is_sure


def test_what_excludes_the_prediction_is_measured_again(small_network, small_input):
    """Once each network seems four times as fast as it is; the front shows none of it."""
    world = Lying(
        search.profile(small_network, small_input),
        lambda ratio, asked: close(ratio / 4 if asked == 1 else ratio),
    )
    front = run(world, small_network, small_input, budget=Budget(flops=0.6)).pareto_front()
    honest = run(
        World(world.profile), small_network, small_input, budget=Budget(flops=0.6)
    ).pareto_front()
    measured = front.dropna(subset=["predicted_ms", "latency_ms"])
    assert len(measured) > 2
    assert (measured["latency_ms"] > 0.8 * honest["latency_ms"].min()).all()
    assert (measured["speedup"].dropna() < 1.1 * honest["speedup"].max()).all()


def test_a_wide_interval_holds_no_budget_and_is_shown(small_network, small_input):
    """The median of every network holds the budget, the slow end of its interval does not."""
    world = Lying(
        search.profile(small_network, small_input), lambda ratio, _: (0.5 * ratio, ratio, 1.5)
    )
    with pytest.raises(search.InfeasibleBudget, match="no plan held the budget on the clock"):
        run(world, small_network, small_input, budget=Budget(latency=0.9))
    front = run(world, small_network, small_input, budget=Budget(flops=0.6)).pareto_front()
    measured = front[front["latency_ms"].notna() & (front["flops_ratio"] < 1)]
    assert len(measured) > 2
    dense_ms = measured["latency_high_ms"] / 1.5
    np.testing.assert_allclose(measured["latency_low_ms"], 0.5 * measured["latency_ms"])
    np.testing.assert_allclose(dense_ms, dense_ms.iloc[0])


def test_a_wide_interval_makes_no_plan_a_slow_one(small_network, small_input):
    """The median of every network is slower than dense, but the clock is not sure of any."""
    world = Lying(
        search.profile(small_network, small_input), lambda ratio, _: (0.5 * ratio, 1.2, 1.5)
    )
    found = run(world, small_network, small_input, budget=Budget(flops=0.6))
    honest = run(World(world.profile), small_network, small_input, budget=Budget(flops=0.6))
    assert found.best == honest.best


def test_a_busy_machine_is_told_and_measured_anew(world, small_network, small_input, tmp_path):
    share = [0.4]
    make = world.stopwatch

    def stopwatch(*arguments):
        found = make(*arguments)
        queue = found.run_queue
        queue.waited, queue.others, queue.passed = share[0], 1.0, 1.0
        return found

    world.stopwatch = stopwatch
    with pytest.warns(
        UserWarning,
        match=r"too busy for the clock: threads waited, all together, for 40% of the time",
    ):
        run(world, small_network, small_input, budget=Budget(flops=0.6), run=tmp_path)
    share[0] = BUSY / 2  # of all that this search measures
    with pytest.warns(UserWarning, match=r"on a busy machine; they are measured anew"):
        run(world, small_network, small_input, budget=Budget(flops=0.6), run=tmp_path)
    starts = world.starts
    run(
        world, small_network, small_input, budget=Budget(flops=0.6), run=tmp_path
    )  # in quiet: nothing is said, nothing measured
    assert world.starts == starts


@pytest.mark.parametrize("before", [0.0, 0.3])
def test_a_moment_of_waiting_is_not_all_of_it(before):
    """What counts is the share of all that was measured, here and by an earlier search."""
    queue, steadiness, kept = SimpleNamespace(share=0.4), SimpleNamespace(spread=0.0), []
    setting = Setting("cpu", 1, "2", "float32", "contiguous", ((1, 3),))
    timetable = Timetable(setting, 10.0, {}, waited=before)
    sides = SimpleNamespace(network_seconds=0.0)
    stopwatch = SimpleNamespace(run_queue=queue, steadiness=steadiness, sides=sides)
    clock = PlanClock(stopwatch, timetable, TimeLimit(1.0), kept.append, lambda _: None)
    for share in (0.4, 0.02):
        queue.share = share
        clock.crown(f"{share}", SimpleNamespace(plan=Plan({})), Effort(math.inf, 0))
    assert [found.waited for found in kept] == [0.4, max(before, 0.02)]


@pytest.mark.skipif(not list(ALONE.glob("*/schedstat")), reason="the system does not tell")
def test_threads_that_wait_for_a_processor_are_seen(monkeypatch):
    monkeypatch.setattr(run_queue, "TASKS", ALONE)
    processor = min(os.sched_getaffinity(0))
    code = f"import os\nos.sched_setaffinity(0, [{processor}])\nprint(flush=True)\nwhile True: pass"
    before = os.sched_getaffinity(0)
    beside = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        beside.stdout.readline()  # it runs
        os.sched_setaffinity(0, [processor])
        queue = RunQueue()
        with queue.attended():
            sum(range(20_000_000))
    finally:
        os.sched_setaffinity(0, before)
        beside.kill()
        beside.wait()
        beside.stdout.close()
    assert queue.share > BUSY


@pytest.mark.parametrize(
    ("ran", "waited", "share"),
    [(0.0, 3.0, 0.0), (0.5, 3.0, 0.25), (9.0, 3.0, 1.5), (math.nan, 3.0, 1.5), (9.0, 0.0, 0.0)],
    ids=["own threads", "little", "others", "unknown", "no wait"],
)
def test_threads_wait_for_others_no_longer_than_these_ran(
    ran, waited, share, tmp_path, monkeypatch
):
    """What the process itself ran does not count in the processors' ticks."""
    ticks, stat = os.sysconf("SC_CLK_TCK"), tmp_path / "stat"
    now = [0.0, 0.0, 0.0]  # waited, of the processors, passed
    own = SimpleNamespace(user=7.0, system=2.0)

    def pass_by():
        now[:] = [waited, ran, 2.0]
        if not math.isnan(ran):
            user = round(ticks * (20.0 + ran))  # idle and waiting for a disk count for nothing
            stat.write_text(f"cpu  {user} 0 0 12345 678 0 0 0 0 0\ncpu0 1 2 3\n")

    monkeypatch.setattr(run_queue, "STAT", stat)
    monkeypatch.setattr(run_queue.os, "times", lambda: own)
    monkeypatch.setattr(run_queue.time, "perf_counter", lambda: now[2])
    monkeypatch.setattr(run_queue, "_waited_seconds", lambda: {"1": now[0]})
    if not math.isnan(ran):
        stat.write_text(f"cpu  {20 * ticks} 0 0 45 6 0 0 0 0 0\ncpu0 1 2 3\n")
    queue = RunQueue()
    with queue.attended():
        pass_by()
    assert queue.share == pytest.approx(share)


@pytest.mark.parametrize("is_there_first", [True, False])
def test_what_others_ran_is_unknown_where_one_look_fails(is_there_first, tmp_path, monkeypatch):
    stat, waited = tmp_path / "stat", [0.0]
    monkeypatch.setattr(run_queue, "STAT", stat)
    monkeypatch.setattr(run_queue, "_waited_seconds", lambda: {"1": waited[0]})
    if is_there_first:
        stat.write_text("cpu  20 0 0 45 6 0 0 0 0 0\n")
    queue = RunQueue()
    with queue.attended():
        waited[0] = 3.0
        if is_there_first:
            stat.unlink()
        else:
            stat.write_text("cpu  20 0 0 45 6 0 0 0 0 0\n")
    assert queue.share == pytest.approx(3.0 / queue.passed)


def test_where_the_system_does_not_tell_nothing_is_said():
    queue = RunQueue()
    assert queue.share == 0.0
    with queue.attended():
        pass
    assert queue.share == 0.0
