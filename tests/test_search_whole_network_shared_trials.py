"""Trials of whole networks are proposed in memory, and written down once they are finished."""

from types import SimpleNamespace

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.front.sweep import front_members
from search.whole_network.by_score import _asked
from search.whole_network.nearby import N_SEEDS, NetworkStudy
from search.whole_network.shared_trials import study_of
from search.whole_network.trials import Trials
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
        trials = trials_in(storage, number)
        study = NetworkStudy(choices, result.budget, winner, front, lambda _: 1.0, trials)
        study.run(lambda: next(left, 0.0))
        return [(t.params, t.values, t.state, t.user_attrs) for t in study._study.trials]

    straight, storage = run(InMemoryStorage(), number), InMemoryStorage()
    assert len(straight) == number
    assert {state for _, _, state, _ in straight} == {TrialState.COMPLETE}
    assert run(storage, stop) == straight[:stop]
    assert run(storage, number) == straight
