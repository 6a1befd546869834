"""Trials in a file of the run folder: lines that are whole, whatever the disk does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sekron.forward.evaluation import one_line
from sekron.records import check_no_link, unwritten

AGAIN = 0.002
"""Seconds after which a writer asks again for the lock of a journal."""


class Journal(JournalFileBackend):
    """A journal whose lines are whole, whatever the disk does; its errors name the file.

    Optuna's waits for the disk at every line. This one does at those that end a trial: what comes
    before is written with it, and alone would be worth nothing. Optuna's own locks are files that
    stay behind, and hold up the next search for half a minute; this one the operating system gives
    back when its holder dies.

    Args:
        path: Of the file.
        lock: That a writer takes.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path))
        self._path, self._writers = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines.

        Raises:
            OSError: If the disk refuses.
        """
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        left = "".join(lines).encode()
        try:
            # What a buffer holds would be written once more when it is closed, without the lock.
            with self._path.open("ab", buffering=0) as file:
                with self._writers.acquire(poll_interval=AGAIN):
                    _drop_half_line(self._path, self._writers)  # of a worker that was killed
                    while left:
                        left = left[file.write(left) :]
                if any(TrialState(log.get("state", 0)).is_finished() for log in logs):
                    os.fsync(file.fileno())
        except OSError as error:
            _drop_half_line(self._path, self._writers)
            raise unwritten(self._path, error) from error


def open_journal(journal: Path) -> BaseStorage:
    """Open the journal of a study to go on with, or begin one.

    Raises:
        ValueError: If it is damaged, or it or its lock is a link.
        OSError: If it cannot be written to.
    """
    if journal.exists() and not journal.is_file():
        raise ValueError(f"{journal} must be a file, but is something else; delete the folder.")
    lock_path = journal.with_name(f".{journal.stem}.lock")
    for path in (journal, lock_path):
        check_no_link(path)
    lock = FileLock(lock_path)
    try:
        _drop_half_line(journal, lock)
        backend = Journal(journal, lock)
    except OSError as error:
        raise unwritten(journal, error) from error
    return _journal(backend, journal)


def read_journal(journal: Path) -> BaseStorage:
    """Open the journal of a study for reading alone: nothing is written, not even a lock.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged.
    """
    if not journal.is_file():
        raise FileNotFoundError(
            f"{journal} must be the journal of a study, but is not there; search again."
        )
    return _journal(JournalFileBackend(str(journal)), journal)


def _journal(backend: JournalFileBackend, journal: Path) -> BaseStorage:
    try:
        return JournalStorage(backend)
    except Exception as error:  # whatever Optuna raises on what it did not write
        raise ValueError(
            f"{journal} must be the journal of a study, but is damaged ({one_line(error)}); "
            "delete the folder and search again."
        ) from error


def _drop_half_line(journal: Path, lock: FileLock) -> None:
    """Cut what a killed process left of its last line, which would spoil the line after it."""
    if not journal.exists():
        return
    with lock, journal.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        if file.read() in (b"", b"\n"):
            return
        file.seek(0)
        text = file.read()
        file.truncate(text.rfind(b"\n") + 1)
