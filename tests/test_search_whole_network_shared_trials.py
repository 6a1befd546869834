"""Trials of whole networks: proposed in memory, taken by one worker each, told once."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search import Budget
from search.front.sweep import front_members
from search.whole_network.by_score import _asked
from search.whole_network.nearby import N_SEEDS, NetworkStudy
from search.whole_network.shared_trials import SharedTrials, study_of
from search.whole_network.trials import Trials
from search.workers import claims
from search.workers.claims import Claims
from tests.test_search_whole_network_within_latency import finished

__all__ = ["finished"]  # fixtures are found by their names


def trials_in(storage, number=4):
    nobody = SimpleNamespace(hold=lambda: None)
    return Trials(number, storage, "search", 0, nobody)


def test_the_first_trial_of_a_score_is_in_the_middle_however_often_it_is_begun():
    study = study_of("question", 0.5, trials_in(InMemoryStorage()))
    for _ in range(2):
        trial = _asked(study, {}, 0, 0, ["size", "place"])
        assert [trial.suggest_float(name, -1.0, 1.0) for name in ("size", "place")] == [0.0, 0.0]
    assert _asked(study, {}, 1, 0, ["size"]).suggest_float("size", -1.0, 1.0) != 0.0
    assert study.trials == []


@pytest.mark.parametrize("stop", [1, N_SEEDS + 2])
def test_trials_near_the_winner_are_the_same_however_often_they_are_stopped(finished, stop):
    _, _, result = finished
    choices, number = result.choices, N_SEEDS + 6
    winner = choices.member(choices.choice(result.best))
    front = front_members(choices, result.best, None)

    def run(storage, n_trials):
        left = iter([1.0] * n_trials)
        clock = SimpleNamespace(
            excess=lambda *_: 1.0,
            limit=SimpleNamespace(left=lambda _: next(left, 0.0)),
            timetable=result.timetable,
        )
        trials = trials_in(storage, number)
        study = NetworkStudy(choices, result.budget, winner, front, clock, trials)
        study.run()
        return [(t.params, t.values, t.state, t.user_attrs) for t in study._study.trials]

    straight, storage = run(InMemoryStorage(), number), InMemoryStorage()
    assert len(straight) == number
    assert {state for _, _, state, _ in straight} == {TrialState.COMPLETE}
    assert run(storage, stop) == straight[:stop]
    assert run(storage, number) == straight


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_earlier_trials_are_timed_on_another_clock_only_while_there_is_time(finished, seconds):
    _, _, result = finished
    choices, storage, timed = result.choices, InMemoryStorage(), []
    front = front_members(choices, result.best, None)
    worst = max(front, key=lambda member: member.error)

    def run(seconds, timetable):
        clock = SimpleNamespace(
            excess=lambda member, _: timed.append(member) or 1.0,
            limit=SimpleNamespace(left=lambda _: seconds),
            timetable=timetable,
        )
        trials = trials_in(storage, N_SEEDS + 2)
        NetworkStudy(choices, Budget(latency=0.9), worst, front, clock, trials).run()

    run(1.0, result.timetable)
    assert timed
    timed.clear()
    run(seconds, replace(result.timetable, networks={}))
    assert bool(timed) == (seconds > 0.0)


class Shared:
    """A worker of a storage and its trials of one score."""

    def __init__(self, storage, number=2):
        self.claims = Claims(storage, "search")
        trials = Trials(number, storage, "search", 0, self.claims)
        self.study = study_of("question", 0.5, trials)
        self.trials = SharedTrials(self.study, trials)
        self.scored = []

    def run(self, number, plan, value=1.0):
        def score():
            self.scored.append(plan)
            return value

        proposing = optuna.create_study()
        self.trials.run(number, proposing.ask({"size": FloatDistribution(-1, 1)}), plan, score)

    def die(self):
        self.claims.worker.stop()


@pytest.fixture
def storage(monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.01)
    return InMemoryStorage()


def told(shared):
    return [(t.user_attrs["number"], t.state.name, t.value) for t in shared.study.trials]


def test_every_number_is_one_workers(storage):
    first, other = Shared(storage), Shared(storage)
    number, others = first.trials.next(), other.trials.next()
    assert (number, others) == (0, 1)  # each begins elsewhere
    first.run(number, "plan")
    other.run(number, "another")  # too late
    number = other.trials.next()
    assert (first.scored, other.scored) == (["plan"], [])
    assert number == 1
    other.run(number, "another", 2.0)
    assert (first.trials.next(), other.trials.next()) == (None, None)
    assert told(first) == [(0, "COMPLETE", 1.0), (0, "FAIL", None), (1, "COMPLETE", 2.0)]
    assert "size" in first.study.trials[0].params


def test_an_equal_plan_is_waited_for(storage):
    first, other = Shared(storage), Shared(storage)
    begun, scored = threading.Event(), threading.Event()

    def slowly():
        begun.set()
        assert scored.wait(60)
        return 3.0

    proposing = optuna.create_study()
    thread = threading.Thread(
        target=first.trials.run, args=(0, proposing.ask(), "plan", slowly), daemon=True
    )
    thread.start()
    assert begun.wait(60)
    waiting = threading.Thread(target=other.run, args=(1, "plan"), daemon=True)
    waiting.start()
    waiting.join(0.2)
    assert other.scored == []
    scored.set()
    thread.join()
    waiting.join()
    assert other.trials.told[0].value == 3.0  # before it asks for its own


def test_what_a_dead_worker_had_in_hand_is_done_by_another(storage):
    dead = Shared(storage)

    def die():
        dead.die()
        raise SystemExit

    fail = pytest.MonkeyPatch()
    fail.setattr("search.whole_network.shared_trials.fail", lambda *_: None)  # as after a kill
    with pytest.raises(SystemExit):
        dead.trials.run(0, optuna.create_study().ask(), "plan", die)
    fail.undo()
    assert told(dead) == [(0, "RUNNING", None)]
    late = Shared(storage)
    assert late.trials.next() == 0  # in its turn, as if nobody had begun it
    late.run(0, "plan")
    late.trials.wait_for_all()
    assert told(late) == [(0, "FAIL", None), (0, "COMPLETE", 1.0)]


def test_a_score_that_raises_leaves_its_number_to_others(storage):
    shared = Shared(storage)
    with pytest.raises(ZeroDivisionError):
        shared.trials.run(0, optuna.create_study().ask(), "plan", lambda: 1 / 0)
    assert shared.trials.next() == 0
    assert told(shared) == [(0, "FAIL", None)]
