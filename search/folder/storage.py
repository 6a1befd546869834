"""Where trials are kept: a journal in the run folder, or a database."""

from __future__ import annotations

from pathlib import Path

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from sekron.forward import one_line


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


def open_journal(journal: Path) -> BaseStorage:
    """Open the journal of a study, or begin one.

    Raises:
        ValueError: If it is damaged.
    """
    lock = FileLock(journal.with_name(f".{journal.stem}.lock"))
    _drop_half_line(journal, lock)
    try:
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(lock)))
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{journal} must be the journal of a study, but is damaged ({error}); "
            "delete the folder and search again."
        ) from error


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage by its URL.

    Raises:
        ValueError: If it cannot be opened.
    """
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever the driver of that database raises
        raise ValueError(f"the storage {url} must open, but it raised {one_line(error)}") from error


def _drop_half_line(journal: Path, lock: FileLock) -> None:
    """Cut what a killed process left of its last line, which would spoil the line after it."""
    if not journal.exists():
        return
    with lock, journal.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
