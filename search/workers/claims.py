"""What the workers of a search have in hand: trials of a study in the storage of the search.

Every worker is a running trial, and so is every claim of its to a piece of work. Optuna numbers
trials one after the other in every storage, so that of two claims to one thing the lower number
holds. The claims of a worker that is not alive any more are failed by whoever notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.workers.alive import HOST, PID, SEARCHES, Watch
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


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen in one query, so that a claim that is there comes with its worker.

    Attributes:
        seen: All workers and claims.
        workers: Number -> worker, of the others that are alive.
        held: Piece of work -> number of the claim, of those.
        done: Piece of work -> the last claim that is done, of all.
    """

    seen: list[FrozenTrial]
    workers: dict[int, FrozenTrial]
    held: dict[str, int]
    done: dict[str, FrozenTrial]


class Claims:
    """What a worker has in hand, and what others have; see `joined`.

    Args:
        storage: Of the search.
        name: Of the search.
        is_search: Whether this is the search itself, not a worker that helps with it.
    """

    def __init__(self, storage: BaseStorage, name: str, *, is_search: bool = False) -> None:
        self._storage, self._name = storage, name
        self._study = _study_id(storage, _study_name(name))
        self._watch = Watch()
        self.worker = Worker(storage, self._study, is_search=is_search)
        self.number = self.worker.number
        try:
            self.look()
        except BaseException:
            self.leave(TrialState.FAIL)
            raise

    def refuse_others(self) -> None:
        """Refuse to search beside another search; workers of one that is gone may be there.

        Raises:
            ValueError: If another one is at work; the message says where.
        """
        while others := [trial for trial in self._earlier() if trial.user_attrs.get(SEARCHES)]:
            for other in filter(self._watch.is_known_alive, others):
                raise ValueError(
                    f"the search {self._name!r} must not be made twice, but process "
                    f"{other.user_attrs.get(PID)} on {other.user_attrs.get(HOST)} is at it; "
                    "`sekron worker` helps there, or wait until it ends."
                )
            self.pause()
            self.look()

    def look(self) -> _Look:
        """See what all workers have done by now, and fail what the dead had in hand.

        Every look is a query to a database, so one is made where something depends on it, and
        what is asked besides is answered from the last one.
        """
        seen = self._storage.get_all_trials(self._study, deepcopy=False)
        workers = self._living(seen)
        complete = (trial for trial in seen if trial.state == TrialState.COMPLETE)
        done = {str(trial.user_attrs.get(WHAT)): trial for trial in complete}
        self._last = look = _Look(seen, workers, self._held_by(workers, seen), done)
        return look

    @property
    def place(self) -> int:
        """How many of the workers that were alive at the last look came before this one."""
        return len(self._earlier())

    def is_alive(self, number: int | None) -> bool:
        """Whether a worker was alive at the last look; this one is."""
        return number == self.number or number in self._last.workers

    @property
    def session(self) -> int:
        """Number of the first worker that was alive at the last look, maybe this one."""
        return min([self.number, *self._last.workers])

    def held(self, begin: str = "") -> frozenset[str]:
        """Return what other workers had in hand at the last look, if its name begins so."""
        return frozenset(piece for piece in self._last.held if piece.startswith(begin))

    def take(self, what: str) -> Claim | None:
        """Claim a piece of work; None where another worker has it."""
        if what in self._last.held:
            return None
        claim = Claim(self._storage, self._note(what))
        look = self.look()  # not the last one, which another thread may have begun before
        number = next(trial.number for trial in look.seen if trial._trial_id == claim.trial_id)
        if look.held.get(what, number) < number:
            claim.give_back()
            return None
        return claim

    def finished(self, what: str, after: int = -1) -> float | None:
        """Return what had come of a piece of work by the last look, None where nobody had done it.

        Args:
            what: The piece of work.
            after: Number of the trial after which it must have been claimed: that of a worker,
                for what every session does anew.
        """
        done = self._last.done.get(what)
        return done.value if done is not None and done.number > after else None

    def once(self, what: str, work: Callable[[], float], after: int = -1) -> float:
        """Do a piece of work, or wait until another worker has; return what came of it.

        Args:
            what: The piece of work.
            work: Does it.
            after: As for `finished`.
        """
        while True:
            claim = self.take(what)
            value = self.finished(what, after)
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
        """Wait until another worker has done something since the last look, or is dead.

        Args:
            begin: Of the names of the pieces of work to wait for.
        """
        held = self.held(begin)
        while held:
            self.hold()
            self.look()
            if self.held(begin) != held:
                break
            self.pause()

    def pause(self) -> None:
        """Let some time pass before the next look."""
        time.sleep(POLL)

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
            self.look()
            for trial in self._last.seen:
                if trial.user_attrs.get(WORKER) == self.number and not trial.state.is_finished():
                    fail(self._storage, trial._trial_id)
            self.worker.leave(state)

    def _earlier(self) -> list[FrozenTrial]:
        """Return the other workers that were there before."""
        workers = self._last.workers
        return [trial for number, trial in workers.items() if number < self.number]

    def _living(self, seen: list[FrozenTrial]) -> dict[int, FrozenTrial]:
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

    def _held_by(self, workers: Container[int], seen: list[FrozenTrial]) -> dict[str, int]:
        """Return what other workers have in hand -> number of the claim; fail those of the dead."""
        held: dict[str, int] = {}
        for trial in seen:
            owner = trial.user_attrs.get(WORKER, self.number)
            if trial.state.is_finished() or owner == self.number:
                continue
            if owner in workers:
                held.setdefault(str(trial.user_attrs[WHAT]), trial.number)
            else:
                fail(self._storage, trial._trial_id)
        return held

    def _note(self, what: str) -> int:
        return create_running(self._storage, self._study, {WHAT: what, WORKER: self.number})


@contextmanager
def joined(storage: BaseStorage, name: str, *, is_search: bool) -> Iterator[Claims]:
    """Be a worker of a search, until the end of the block.

    Args:
        storage: Of the search.
        name: Of the search.
        is_search: Whether this is the search itself, of which there may be one at a time.

    Raises:
        ValueError: If there is another one; the message says where.
    """
    claims = Claims(storage, name, is_search=is_search)
    state = TrialState.FAIL
    try:
        if is_search:
            claims.refuse_others()
        yield claims
        state = TrialState.COMPLETE
    finally:
        claims.leave(state)


def done_in(storage: BaseStorage, name: str) -> frozenset[str]:
    """Return the pieces of work of a search that are done, for one who only reads its storage."""
    try:
        study = storage.get_study_id_from_name(_study_name(name))
    except KeyError:  # nobody has begun
        return frozenset()
    complete = storage.get_all_trials(study, deepcopy=False, states=(TrialState.COMPLETE,))
    return frozenset(str(trial.user_attrs.get(WHAT)) for trial in complete)


def _study_name(name: str) -> str:
    return f"{name}/workers/claims"


def _study_id(storage: BaseStorage, name: str) -> int:
    try:
        return storage.create_new_study([StudyDirection.MINIMIZE], name)
    except DuplicatedStudyError:
        return storage.get_study_id_from_name(name)
