"""The trials of a score, of which every worker takes some: one at a time, as a running trial."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from search.per_layer.objective_names import name_objectives
from search.whole_network.trials import Trials
from search.workers.worker import create_running, fail

NUMBER, PLAN, WORKER = "number", "plan", "worker"
"""User attributes of a trial: its number as workers count, without those that failed; the plan
that is scored, as JSON; and the number of its worker."""


def study_of(question: str, dense: float, trials: Trials) -> Study:
    """Open the study of a question and a score.

    Args:
        question: Digest of what decides the best plan.
        dense: Score of the dense network, which stands for the function and its data.
        trials: Of the study.
    """
    text = f"{question} {dense!r}"
    study = optuna.create_study(
        storage=trials.storage,
        study_name=f"{trials.name}/scores/{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        direction="maximize",
        load_if_exists=True,
    )
    name_objectives(study, ["score"])
    return study


class SharedTrials:
    """The trials of a study, as one of its workers sees them.

    Attributes:
        told: Number, as workers count, -> trial that is finished, at the last look.

    Args:
        study: Of the trials.
        trials: How many, and what this worker has in hand.
    """

    def __init__(self, study: Study, trials: Trials) -> None:
        self._study, self._trials = study, trials
        self.told: dict[int, FrozenTrial] = {}
        self._running: list[FrozenTrial] = []
        self._look()
        if self._running:
            self._free_those_of_the_dead()

    def next(self) -> int | None:
        """Return the number of a trial that nobody has in hand; None once all are told."""
        while True:
            self._look()
            left = set(range(self._trials.number)) - set(self.told)
            free = sorted(left - {trial.user_attrs.get(NUMBER) for trial in self._running})
            if free:  # workers that look at the same time take one each
                return free[self._trials.claims.place % len(free)]
            if not left:
                return None
            self._wait()

    def run(self, number: int, trial: Trial, plan: str, score: Callable[[], float]) -> None:
        """Score the plan of a trial, unless another worker has that number by now.

        Args:
            number: As `next` returned it.
            trial: With its parameters.
            plan: As JSON.
            score: Of the plan; called once no other worker scores an equal one.
        """
        storage = self._study._storage
        attributes = {NUMBER: number, PLAN: plan, WORKER: self._trials.claims.number}
        own = create_running(storage, self._study._study_id, attributes, trial)
        try:
            self._look()
            if number in self.told or self._is_held(NUMBER, number, own):
                fail(storage, own)
                return
            while self._is_held(PLAN, plan, own):
                self._wait()
                self._look()
            value = score()
            self._trials.claims.hold()
            storage.set_trial_state_values(own, TrialState.COMPLETE, [value])
        except BaseException:
            fail(storage, own)
            raise

    def wait_for_all(self) -> None:
        """Wait until no other worker has a trial in hand."""
        self._look()
        while self._running:
            self._wait()
            self._look()

    def _look(self) -> None:
        trials = self._study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        # Those of earlier releases have no number.
        self.told = {trial.user_attrs.get(NUMBER, i): trial for i, trial in enumerate(complete)}
        self._running = [trial for trial in trials if trial.state == TrialState.RUNNING]

    def _is_held(self, attribute: str, value: object, own: int) -> bool:
        """Whether a trial that was begun before one's own has a user attribute in common."""
        return any(
            trial.user_attrs.get(attribute) == value and trial._trial_id < own
            for trial in self._running
        )

    def _wait(self) -> None:
        self._trials.claims.hold()
        if not self._free_those_of_the_dead():
            self._trials.claims.pause()

    def _free_those_of_the_dead(self) -> bool:
        """Fail the trials of workers that are gone; return whether there were any."""
        claims = self._trials.claims
        claims.look()
        of = {trial._trial_id: trial.user_attrs.get(WORKER) for trial in self._running}
        gone = [trial for trial, worker in of.items() if not claims.is_alive(worker)]
        for trial in gone:
            fail(self._study._storage, trial)
        return bool(gone)
