"""Keeps the journal of a study whole when the process that writes it is killed."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock
from optuna.storages.journal import JournalFileOpenLock


class JournalLock(JournalFileOpenLock):
    """A lock that the operating system gives back when its holder dies.

    Optuna's own locks are files that stay behind, and hold up the next search for half a minute.

    Args:
        lock: That is taken.
    """

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


def drop_half_line(journal: Path, lock: FileLock) -> None:
    """Cut what a killed process left of its last line, which would spoil the line after it."""
    if not journal.exists():
        return
    with lock, journal.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
