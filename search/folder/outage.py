"""An outage of a database is waited out, whatever was asked of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import wraps
from threading import Lock
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

OUTAGE = 60.0
"""Seconds of it that are waited for."""

PAUSE = 0.5
"""Seconds between two attempts."""


class _Outage:
    """Since when a database does not answer, whichever thread asks."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._lock = Lock()

    def lasts(self) -> bool:
        """Wait a little; whether to ask again."""
        now = time.monotonic()
        with self._lock:
            since = self._since = now if self._since is None else self._since
        if now - since > OUTAGE:
            return False
        time.sleep(PAUSE)
        return True

    def ends(self) -> None:
        """Note that it has answered."""
        self._since = None


def waiting_out(storage: BaseStorage) -> BaseStorage:
    """Let a storage in a database wait out that this cannot be reached; return it.

    Nobody knows of a write whose connection broke whether it took place. So a write is looked for
    before it is repeated, where it would not be the same twice.

    Args:
        storage: Its methods are replaced.
    """
    outage = _Outage()
    again = {
        "create_new_trial": _created_again(storage),
        "set_trial_state_values": _set_again(storage),
    }
    for name in dir(BaseStorage):
        if not name.startswith("_"):
            method = getattr(storage, name)
            setattr(storage, name, _patient(method, again.get(name, method), outage))
    return storage


def _patient(
    method: Callable[..., Any], again: Callable[..., Any], outage: _Outage
) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        attempt = method
        while True:
            try:
                found = attempt(*arguments, **named)
            except (SQLAlchemyError, StorageInternalError) as error:
                if not _is_outage(error) or not outage.lasts():
                    raise
                attempt = again
            else:
                outage.ends()
                return found

    return call


def _created_again(storage: BaseStorage) -> Callable[..., int]:
    create = storage.create_new_trial

    def created(study_id: int, template_trial: FrozenTrial | None = None) -> int:
        if template_trial is not None:
            for trial in reversed(storage.get_all_trials(study_id, deepcopy=False)):
                if _what(trial) == _what(template_trial):
                    return storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        return create(study_id, template_trial)  # else one too many is left running, for nobody

    return created


def _what(trial: FrozenTrial) -> tuple[object, ...]:
    return trial.datetime_start, trial.state, trial.params, trial.user_attrs, trial.values


def _set_again(storage: BaseStorage) -> Callable[..., bool]:
    set_values = storage.set_trial_state_values

    def was_set(trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if state.is_finished() and storage.get_trial(trial_id).state == state:
            return True
        return set_values(trial_id, state, values)

    return was_set


def _is_outage(error: Exception) -> bool:
    """Whether an error is about the connection, or that others write to a file now."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    if not isinstance(cause, OperationalError | InterfaceError):
        return False
    is_file = type(cause.orig).__module__.startswith("sqlite3")
    return not is_file or "locked" in str(cause.orig)
