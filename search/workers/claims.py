"""What the workers of a search have in hand: trials of a study in the storage of the search.

Every worker is a running trial, and so is every claim of its to a piece of work. Optuna numbers
trials one after the other in every storage, so that of two claims to one thing the lower number
holds. The claims of a worker that is not alive any more are failed by whoever notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.workers.alive import HOST, PID, Watch
from search.workers.worker import Worker, create_running, fail

WHAT, WORKER = "what", "worker"
"""User attributes of a claim: the piece of work, and the number of its worker."""

POLL = 0.5
"""Seconds between two looks at what others do."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A piece of work in hand.

    Attributes:
        storage: That it is noted in.
        trial_id: Of its trial.
    """

    storage: BaseStorage
    trial_id: int

    def done(self, value: float = 0.0) -> None:
        """Note that the work is done, and what came of it."""
        self.storage.set_trial_state_values(self.trial_id, TrialState.COMPLETE, [value])

    def give_back(self) -> None:
        """Leave the work to others."""
        fail(self.storage, self.trial_id)


class Claims:
    """What a worker has in hand, and what others have; see `joined`.

    Args:
        storage: Of the search.
        name: Of the search.
    """

    def __init__(self, storage: BaseStorage, name: str) -> None:
        self._storage, self._name = storage, name
        self._study = _study_id(storage, f"{name}/workers/claims")
        self._watch = Watch()
        self.worker = Worker(storage, self._study)
        self.number = self.worker.number

    def refuse_others(self) -> None:
        """Refuse to be one of several workers.

        Raises:
            ValueError: If another one is at work; the message says where.
        """
        while others := self._earlier():
            for other in filter(self._watch.is_known_alive, others):
                raise ValueError(
                    f"the search {self._name!r} must not be made twice, but process "
                    f"{other.user_attrs.get(PID)} on {other.user_attrs.get(HOST)} is at it; "
                    "`sekron worker` helps there, or wait until it ends."
                )
            time.sleep(POLL)

    def held(self, begin: str = "") -> frozenset[str]:
        """Return the pieces of work that other workers have in hand, whose names begin so."""
        pieces = [str(trial.user_attrs[WHAT]) for trial in self._others_claims(self._look())]
        return frozenset(piece for piece in pieces if piece.startswith(begin))

    def take(self, what: str) -> Claim | None:
        """Claim a piece of work; None where another worker has it."""
        return self._take(what)[0]

    def finished(self, what: str, after: int = -1) -> float | None:
        """Return what came of a piece of work last, None where nobody has done it.

        Args:
            what: The piece of work.
            after: Number of the trial after which it must have been claimed: that of this worker,
                for what every session does anew.
        """
        return _finished(self._look(), what, after)

    def once(self, what: str, work: Callable[[], float], after: int = -1) -> float:
        """Do a piece of work, or wait until another worker has; return what came of it.

        Args:
            what: The piece of work.
            work: Does it.
            after: As for `finished`.
        """
        while True:
            claim, seen = self._take(what)
            value = _finished(seen, what, after)
            if claim is not None and value is None:
                value = work()
                claim.done(value)
            elif claim is not None:
                claim.give_back()
            if value is not None:
                return value
            self.wait(what)

    def note(self, what: str, value: float = 0.0) -> None:
        """Note what came of a piece of work that was not claimed."""
        Claim(self._storage, self._note(what)).done(value)

    def wait(self, begin: str) -> None:
        """Wait until another worker has done something, or is dead.

        Args:
            begin: Of the names of the pieces of work to wait for.
        """
        held = self.held(begin)
        while held and self.held(begin) == held:
            self.hold()
            time.sleep(POLL)

    def wait_for_all(self, begin: str) -> None:
        """Wait until no other worker has a piece of work whose name begins so."""
        while self.held(begin):
            self.wait(begin)

    def hold(self) -> None:
        """Make sure that this worker still has what it had in hand; comes before it writes.

        Raises:
            ConnectionError: If others may have taken it over.
        """
        self.worker.hold()

    def leave(self, state: TrialState) -> None:
        """Give back what this worker still has in hand, and be gone."""
        self.worker.stop()
        with suppress(Exception):  # as after a kill, others notice
            for trial in self._look():
                if trial.user_attrs.get(WORKER) == self.number and not trial.state.is_finished():
                    fail(self._storage, trial._trial_id)
            self.worker.leave(state)

    def _earlier(self) -> list[FrozenTrial]:
        """Return the other workers that were there before."""
        workers = self._workers(self._look())
        return [trial for number, trial in workers.items() if number < self.number]

    def _take(self, what: str) -> tuple[Claim | None, list[FrozenTrial]]:
        """Claim a piece of work; return what was seen after that, too."""
        claim = Claim(self._storage, self._note(what))
        seen = self._look()
        number = next(trial.number for trial in seen if trial._trial_id == claim.trial_id)
        for other in self._others_claims(seen):
            if other.user_attrs[WHAT] == what and other.number < number:
                claim.give_back()
                return None, seen
        return claim, seen

    def _others_claims(self, seen: list[FrozenTrial]) -> list[FrozenTrial]:
        """Return the claims of other workers that are alive; fail those of the dead."""
        workers, held = self._workers(seen), []
        for trial in seen:
            owner = trial.user_attrs.get(WORKER, self.number)
            if trial.state.is_finished() or owner == self.number:
                continue
            if owner in workers:
                held.append(trial)
            else:
                fail(self._storage, trial._trial_id)
        return held

    def _workers(self, seen: list[FrozenTrial]) -> dict[int, FrozenTrial]:
        """Return number -> trial of the other workers that are alive; fail those of the dead."""
        workers = {}
        for trial in seen:
            if trial.state.is_finished() or WHAT in trial.user_attrs or trial.number == self.number:
                continue
            if self._watch.is_alive(trial):
                workers[trial.number] = trial
            else:
                fail(self._storage, trial._trial_id)
        return workers

    def _look(self) -> list[FrozenTrial]:
        """Return all workers and claims, in one look: a claim that is there comes with its worker.

        Every look is a query to a database, so as much as possible is made of it.
        """
        return self._storage.get_all_trials(self._study, deepcopy=False)

    def _note(self, what: str) -> int:
        return create_running(self._storage, self._study, {WHAT: what, WORKER: self.number})


@contextmanager
def joined(storage: BaseStorage, name: str, is_alone: bool) -> Iterator[Claims]:
    """Be a worker of a search, until the end of the block.

    Args:
        storage: Of the search.
        name: Of the search.
        is_alone: Whether to refuse to be one where others are already.

    Raises:
        ValueError: If there are others; the message says where.
    """
    claims = Claims(storage, name)
    state = TrialState.FAIL
    try:
        if is_alone:
            claims.refuse_others()
        yield claims
        state = TrialState.COMPLETE
    finally:
        claims.leave(state)


def _finished(seen: list[FrozenTrial], what: str, after: int) -> float | None:
    done = [
        trial
        for trial in seen
        if trial.state == TrialState.COMPLETE
        and trial.user_attrs.get(WHAT) == what
        and trial.number > after
    ]
    return done[-1].value if done else None


def _study_id(storage: BaseStorage, name: str) -> int:
    try:
        return storage.create_new_study([StudyDirection.MINIMIZE], name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)
