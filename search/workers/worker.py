"""A process as a worker: a running trial that it gives signs of life in, from a thread."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import Trial, TrialState, create_trial

from search.workers.alive import BEAT, BEATS, GRACE, whereabouts


class Worker:
    """One of the workers of a search.

    Attributes:
        number: Of its trial.

    Args:
        storage: Of the search.
        study: That workers are trials of.
        is_search: Whether it is the search that others help with.
    """

    def __init__(self, storage: BaseStorage, study: int, *, is_search: bool) -> None:
        self._storage = storage
        self._beats, self._beaten_at, self._is_lost = 0, time.time(), False
        self._is_over = threading.Event()
        name = f"sekron {uuid.uuid4().hex}"
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()  # first, since it tells other threads that this worker lives
        try:
            self._trial = create_running(storage, study, whereabouts(name, is_search=is_search))
            self.number = storage.get_trial_number_from_id(self._trial)
        except BaseException:
            self.stop()
            raise

    def _live(self) -> None:
        while not (self._is_lost or self._is_over.wait(BEAT)):
            with suppress(Exception):  # the worker itself will meet and tell it, if it stays
                self.beat()

    def stop(self) -> None:
        """Give no more signs of life."""
        self._is_over.set()
        self._thread.join()

    def beat(self) -> None:
        """Give a sign of life."""
        try:
            self._storage.set_trial_user_attr(self._trial, BEATS, self._beats + 1)
        except UpdateFinishedTrialError:
            self._is_lost = True
        self._beats, self._beaten_at = self._beats + 1, time.time()

    def hold(self) -> None:
        """Make sure that nobody takes this worker for dead.

        Raises:
            ConnectionError: If others may have taken over what it had in hand.
        """
        if time.time() - self._beaten_at > GRACE / 2:  # this process may have been stopped
            self.beat()
        if self._is_lost:
            raise ConnectionError(
                f"a worker must give a sign of life every {GRACE:g} s, but this one did not, and "
                "others took over what it had in hand; start it again."
            )

    def leave(self, state: TrialState) -> None:
        """Be gone, finished or not; `stop` comes before."""
        # Optuna's summaries want a value of every trial that is complete.
        values = [0.0] if state == TrialState.COMPLETE else None
        self._storage.set_trial_state_values(self._trial, state, values)


def create_running(
    storage: BaseStorage, study: int, attributes: dict[str, Any], proposed: Trial | None = None
) -> int:
    """Return the id of a new trial that runs, with user attributes.

    Args:
        storage: Of the study.
        study: Of the trial.
        attributes: Of the trial.
        proposed: Has its parameters.
    """
    trial = create_trial(
        state=TrialState.RUNNING,
        params=proposed.params if proposed else None,
        distributions=proposed.distributions if proposed else None,
        user_attrs=attributes,
    )
    return storage.create_new_trial(study, template_trial=trial)


def fail(storage: BaseStorage, trial_id: int) -> None:
    """Fail a trial, unless somebody else was faster."""
    with suppress(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, TrialState.FAIL)
