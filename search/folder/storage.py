"""Where trials are kept: in a journal or a database, and how they are read again."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

from search.folder.outage import waiting_out
from sekron.forward.evaluation import one_line
from sekron.records import check_no_link, short, unwritten

HARMLESS = ("application_name", "charset", "connect_timeout", "mode", "sslmode", "timeout", "uri")
"""Names of what in the query of a URL may be written down; whatever else may be a password."""

SHORTEST = 4
"""Letters of a secret that can be found in a text."""

AGAIN = 0.002
"""Seconds after which a writer asks again for the lock of a journal."""

ATTEMPTS = 5
"""To make the tables of a database, beside other workers that do."""


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
        self._lock.acquire(poll_interval=AGAIN)
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


class Journal(JournalFileBackend):
    """A journal whose lines are whole, whatever the disk does; its errors name the file.

    Optuna's waits for the disk at every line. This one does at those that end a trial: what comes
    before is written with it, and alone would be worth nothing.

    Args:
        path: Of the file.
        lock: That a writer takes.
    """

    def __init__(self, path: Path, lock: FileLock) -> None:
        super().__init__(str(path), JournalLock(lock))
        self._path, self._writers = path, lock

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines.

        Raises:
            OSError: If the disk refuses.
        """
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        try:
            with self._path.open("ab") as file:
                with self._writers.acquire(poll_interval=AGAIN):
                    _drop_half_line(self._path, self._writers)  # of a worker that was killed
                    file.write("".join(lines).encode())
                    file.flush()
                if any(TrialState(log.get("state", 0)).is_finished() for log in logs):
                    os.fsync(file.fileno())
        except OSError as error:
            _drop_half_line(self._path, self._writers)
            raise unwritten(self._path, error) from error


def open_journal(journal: Path) -> BaseStorage:
    """Open the journal of a study to go on with, or begin one.

    Raises:
        ValueError: If it is damaged, or a link.
        OSError: If it cannot be written to.
    """
    if journal.exists() and not journal.is_file():
        raise ValueError(f"{journal} must be a file, but is something else; delete the folder.")
    check_no_link(journal)
    lock = FileLock(journal.with_name(f".{journal.stem}.lock"))
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


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage by its URL to go on with; what is missing there is made.

    Raises:
        ValueError: If it cannot be opened; the message does not tell the password.
    """
    try:
        return waiting_out(_made(url))
    except Exception as error:  # whatever the driver of that database raises
        raise _refusal(url, error) from None  # the cause may tell the password


def read_storage(url: str) -> BaseStorage:
    """Open an Optuna storage by its URL for reading; nothing is made.

    Raises:
        FileNotFoundError: If it is a file that does not exist.
        ValueError: If it cannot be opened; the message does not tell the password.
    """
    database = _parsed(url)
    if database.drivername.startswith("sqlite") and not Path(database.database or "").is_file():
        raise FileNotFoundError(f"the storage {without_password(url)} must exist, but does not.")
    try:
        return RDBStorage(url, skip_table_creation=True)
    except Exception as error:  # whatever the driver of that database raises
        raise _refusal(url, error) from None


@contextmanager
def told(url: str | None) -> Iterator[None]:
    """Say in one line that a database has gone, without its password.

    Args:
        url: Of the storage; None where that is no database.

    Raises:
        ConnectionError: If it has; what was finished is kept there.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if url is None:
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise ConnectionError(
            f"the storage {without_password(url)} must stay reachable, but it raised "
            f"{_said(url, cause or error)}; the same call goes on from its finished trials."
        ) from None


def without_password(url: str) -> str:
    """Return the URL of a storage as it may be written down.

    Raises:
        ValueError: If it is no URL of a database.
    """
    database = _parsed(url)
    public = URL.create(
        database.drivername,
        database.username,
        None,
        database.host,
        database.port,
        database.database,
        {name: value for name, value in database.query.items() if name in HARMLESS},
    )
    return public.render_as_string(hide_password=False)


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        # What came is not told: nobody knows where a password stands in it.
        raise ValueError(
            "a storage reads 'sqlite:///study.db' or 'postgresql+psycopg://user@host/database', "
            "but what was given is no such URL."
        ) from None


def _refusal(url: str, error: Exception) -> ValueError:
    """Return an error that says what a driver said, or which one is missing."""
    public, missing = without_password(url), _missing_module(error)
    if missing and url.startswith("postgresql"):
        return ValueError(
            f"the storage {public} must have its driver installed, but the module {missing!r} is "
            "missing; run pip install 'sekron[postgresql]' and begin the URL with "
            "postgresql+psycopg://."
        )
    if missing:
        return ValueError(
            f"the storage {public} must have its driver installed, but the module {missing!r} is "
            "missing; install the package that has it."
        )
    return ValueError(f"the storage {public} must open, but it raised {_said(url, error)}")


def _made(url: str) -> BaseStorage:
    """Open a storage and make its tables, which another process may be doing too."""
    for _ in range(ATTEMPTS):
        try:
            return optuna.storages.get_storage(url)
        except (IntegrityError, OperationalError, ProgrammingError) as error:
            if not isinstance(error, IntegrityError) and "exists" not in str(error):
                raise
            time.sleep(random.random())
    return optuna.storages.get_storage(url)


def _missing_module(error: BaseException | None) -> str:
    """Return the name of a module that was imported in vain; empty if that was not the cause."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        error = error.__cause__ or error.__context__
    return ""


def _said(url: str, error: BaseException) -> str:
    """Return what a driver said, unless that may tell a secret."""
    database = _parsed(url)
    hidden = [str(value) for name, value in database.query.items() if name not in HARMLESS]
    secrets = [*hidden, *([str(database.password)] if database.password else [])]
    text = one_line(error)
    if any(len(secret) < SHORTEST for secret in secrets):
        text = type(error).__name__
    for secret in secrets:
        for spelling in (secret, quote(secret), quote(secret, safe=""), quote_plus(secret)):
            text = text.replace(spelling, "***")
    return short(text)


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
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
