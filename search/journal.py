"""Keeps the journal of a study whole when the process that writes it is killed."""

from __future__ import annotations

import fcntl
from io import BufferedWriter
from pathlib import Path

from optuna.storages.journal._file import BaseJournalFileLock


class FileLock(BaseJournalFileLock):
    """A lock that the operating system gives back when its holder dies.

    Optuna's own locks are files that stay behind, and hold up the next search for half a minute.

    Args:
        path: Of the lock file; it stays, empty.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.resolve()
        self._file: BufferedWriter | None = None

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._file = self._path.open("ab")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            self._file.close()
            self._file = None


def drop_half_line(journal: Path, lock: FileLock) -> None:
    """Cut what a killed process left of its last line, which would spoil the line after it."""
    if not journal.exists():
        return
    lock.acquire()
    try:
        with journal.open("rb+") as file:
            text = file.read()
            whole = text.rfind(b"\n") + 1
            if whole < len(text):
                file.truncate(whole)
    finally:
        lock.release()
