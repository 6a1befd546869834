"""Which structures of layers are timed, and what becomes of networks that fail."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

import search
from search import Budget
from search.clock.prospects import Prospects
from search.clock.sides import NoMemory
from search.clock.time_limit import TimeLimit
from search.clock.times import Effort, NetworkTime, TimedPoint
from search.clock.timetable_record import from_json, to_json
from search.whole_network.layer_clock import WEIGHTLESS
from search.whole_network.plan_clock import NEVER, PlanClock
from sekron import CannotRun
from sekron.layers.operations import DEFAULT_FORM
from sekron.network.plan import Plan
from sekron.structures.structure import Structure
from tests.test_search_whole_network_within_latency import World

NO_CHOICES = SimpleNamespace(tables={})
"""At which only the prospects look."""


@dataclass
class Told:
    """A structure of a layer that may save so many milliseconds."""

    key: str
    promise: float
    timed_ones: list = field(repr=False)
    ratio: float = 0.5
    layer = SimpleNamespace(name="a layer")

    def least_seconds(self, *_):
        return 0.0

    def timed(self, _, timetable, left):
        assert left() > 0.0
        self.timed_ones.append((self.key, self.promise))
        point = "sekron", ((len(self.timed_ones), 1), (1, 2))
        return timetable.with_point(self.key, point, TimedPoint(DEFAULT_FORM, {(1,): self.ratio}))


@pytest.fixture
def clock(small_network, small_input):
    profile = search.profile(small_network, small_input)
    stopwatch = World(profile).stopwatch(small_network, small_input, profile, "torch")
    limit = TimeLimit(60.0, lambda: 0.0)
    return PlanClock(stopwatch, stopwatch.start(1.0), limit, lambda _: None, lambda _: None)


@pytest.fixture
def timed(monkeypatch, clock):
    """Lets the first layers have structures of some shares of the network's time; what is timed."""

    def time_layers(*shares_of_layers, refused=False):
        keys = list(dict.fromkeys(layer.key for layer in clock.timetable.layers.values()))
        shares = dict(zip(keys, shares_of_layers, strict=False))
        done = []

        def prospects(layers, _, timetable):
            key = timetable.layers[layers[0].name].key
            rest = [s for s in shares.get(key, ()) if (key, s) not in done]
            order = sorted(rest, reverse=True)
            ratio = math.inf if refused and not done else 0.5
            first = Told(key, order[0], done, ratio) if order else None
            return Prospects(first, len(order), sum(order))

        monkeypatch.setattr(Prospects, "of", prospects)
        clock.time_layers(NO_CHOICES)
        return [share for _, share in done]

    share = clock.timetable.network_ms
    assert len({layer.key for layer in clock.timetable.layers.values()}) > 1
    return lambda *shares, **given: time_layers(*([share * s for s in o] for o in shares), **given)


def of_network(clock, *shares):
    return [share * clock.timetable.network_ms for share in shares]


def test_the_most_promising_first_until_no_plan_would_gain(clock, timed):
    small = 0.6 * WEIGHTLESS, 0.5 * WEIGHTLESS, 0.1 * WEIGHTLESS, 0.0
    found = timed([0.1, small[0], small[2]], [0.2, small[1], small[3]])
    assert found == of_network(clock, 0.2, 0.1, small[0])
    assert clock.weightless == 3
    assert clock.left_out == ""


def test_every_layer_has_one_structure_timed(clock, timed):
    assert timed([0.1, 0.0], [0.0001, 0.0]) == of_network(clock, 0.1, 0.0001)
    assert clock.weightless == 2


def test_what_the_runtime_refuses_does_not_count(clock, timed):
    assert timed([0.1, 0.0], refused=True) == of_network(clock, 0.1, 0.0)


def test_small_shares_that_add_up_are_timed(clock, timed):
    shares = [0.9 * WEIGHTLESS, 0.8 * WEIGHTLESS, 0.7 * WEIGHTLESS]
    assert timed(shares) == of_network(clock, *shares[:2])
    assert clock.weightless == 1


def test_all_may_be_timed(clock, timed):
    assert timed([0.3, 0.2], [0.1]) == of_network(clock, 0.3, 0.2, 0.1)
    assert clock.weightless == 0


@pytest.mark.parametrize("drift", [0.5, 1.5])
def test_milliseconds_are_held_by_the_slower_dense_time(clock, monkeypatch, drift):
    """That of the start, or the median of all races; a share of the dense time knows neither."""
    dense_ms, ratio = clock.timetable.network_ms, 0.6
    plan = Plan({"3": Structure.parse("sekron:3x2x3x1,4x4x1x3@6")})
    measured = NetworkTime(ratio, 0.4, 1.0, 1, ratio, ratio, is_confirmed=True)
    clock._set(clock.timetable.with_network(plan, measured))
    rounds = [0.1, drift * dense_ms / 1e3, 0.0]
    monkeypatch.setattr(clock._stopwatch.steadiness, "_seconds", rounds)
    member = SimpleNamespace(plan=plan)
    for limits, slower in (
        ({"latency_ms": 0.5 * dense_ms}, max(drift, 1.0)),
        ({"latency": 0.5}, 1),
    ):
        excess = clock.excess(member, Budget(**limits))
        assert excess == pytest.approx(ratio * slower / 0.5 - 1.0)
    both = Budget(speedup=1.25, latency_ms=10 * dense_ms)
    assert clock.excess(member, both) == pytest.approx(ratio * 1.25 - 1.0)


def failing(error):
    def fail(*_):
        raise error

    return fail


MEMBER = SimpleNamespace(plan=Plan({"3": Structure.parse("sekron:3x2x3x1,4x4x1x3@6")}), saved=0.5)
FIRST = 0.79, 0.8, 0.81
"""Far from what the layers of it promise."""


def races(monkeypatch, clock, *told):
    """Let the races of networks tell these intervals, or raise these errors."""
    left = list(told)

    def network_ratio(*_):
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(clock._stopwatch, "network_ratio", network_ratio)
    monkeypatch.setattr(clock._stopwatch, "activations", lambda _: 0.75)
    return left


FAILURES = pytest.mark.parametrize(
    "error", [CannotRun("it is odd."), NoMemory("it is full."), RuntimeError("it failed\nhere")]
)


@FAILURES
def test_a_second_race_that_fails_leaves_the_first_time(clock, monkeypatch, error):
    left = races(monkeypatch, clock, FIRST, error)
    measured = clock.time(MEMBER)
    assert left == []
    assert (measured.low, measured.ratio, measured.high) == FIRST
    assert measured.activations == 0.75


@FAILURES
def test_a_confirming_race_that_fails_refuses_the_plan_for_now(clock, monkeypatch, error):
    left = races(monkeypatch, clock, FIRST, FIRST, error)
    assert clock.excess(MEMBER, Budget(latency=0.9)) == NEVER
    assert left == []
    assert [str(error).split("\n")[0] in why for why in clock.refused.values()] == [True]
    assert not clock.timetable.of(MEMBER.plan).runs
    assert from_json(to_json(clock.timetable), "latency.json").of(MEMBER.plan) is None
    assert not clock.effort(4).covers(Effort(1.0, 4))


@FAILURES
def test_activations_that_cannot_be_measured_are_not_known(clock, monkeypatch, error):
    races(monkeypatch, clock, FIRST, FIRST)
    monkeypatch.setattr(clock._stopwatch, "activations", failing(error))
    measured = clock.time(MEMBER)
    assert measured.ratio == FIRST[1]
    assert math.isnan(measured.activations)
    again = from_json(to_json(clock.timetable), "latency.json").of(MEMBER.plan)
    assert again.ratio == FIRST[1]
    assert math.isnan(again.activations)


def test_no_activations_are_measured_of_what_does_not_run(clock, monkeypatch):
    races(monkeypatch, clock, CannotRun("it is odd."))
    monkeypatch.setattr(clock._stopwatch, "activations", lambda _: pytest.fail("it does not run"))
    assert not clock.time(MEMBER).runs
    again = from_json(to_json(clock.timetable), "latency.json").of(MEMBER.plan)
    assert not again.runs


def test_what_it_took_to_make_a_network_ready_is_recorded(clock, monkeypatch):
    races(monkeypatch, clock, FIRST, FIRST)
    clock._stopwatch.sides.network_seconds = 2.5
    clock.time(MEMBER)
    recorded = from_json(to_json(clock.timetable), "latency.json")
    assert recorded.ready_seconds == 2.5
    clock._stopwatch.sides.network_seconds = 0.0  # the next search has made none ready so far
    next_clock = PlanClock(clock._stopwatch, recorded, clock.limit, lambda _: None, lambda _: None)
    next_clock.crown("a question", MEMBER, Effort(1.0, 0))
    assert next_clock.timetable.ready_seconds == 2.5
