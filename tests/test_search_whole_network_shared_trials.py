"""Trials that a kill has left running: what they were to try is tried all the same."""

from types import SimpleNamespace

from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.front.sweep import front_members
from search.whole_network.nearby import NetworkStudy
from search.whole_network.shared_trials import asked, study_of
from search.whole_network.trials import Trials
from search.workers.claims import FIXED
from tests.test_search_whole_network_within_latency import finished

__all__ = ["finished"]  # fixtures are found by their names


def trials_in(storage):
    nobody = SimpleNamespace(hold=lambda: None)
    return Trials(4, storage, "search", 0, nobody)


def test_the_first_trial_of_a_score_is_in_the_middle_however_often_it_is_begun():
    trials = trials_in(InMemoryStorage())
    study = study_of("question", 0.5, trials)
    for _ in range(2):
        trial = asked(study, trials, 0, ["size", "place"])
        assert [trial.suggest_float(name, -1.0, 1.0) for name in ("size", "place")] == [0.0, 0.0]
    assert asked(study, trials, 1, ["size"]).suggest_float("size", -1.0, 1.0) != 0.0


def test_a_seed_that_was_taken_from_the_queue_is_enqueued_again(finished):
    _, _, result = finished
    choices, storage = result.choices, InMemoryStorage()
    winner = choices.member(choices.choice(result.best))
    front = front_members(choices, result.best, None)

    def opened():
        trials = trials_in(storage)
        return NetworkStudy(choices, result.budget, winner, front, lambda _: 0.0, trials)._study

    killed = opened()
    killed.ask()
    seed = killed.trials[0].system_attrs[FIXED]
    again = opened()
    waiting = again.get_trials(states=(TrialState.WAITING,))
    assert seed in [trial.system_attrs[FIXED] for trial in waiting]
    assert again.trials[0].state == TrialState.FAIL
