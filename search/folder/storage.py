"""Trials in a database: how it is opened, and what is told of it when it fails."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from urllib.parse import quote, quote_plus, unquote, urlsplit

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
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
from sekron.records import short

HARMLESS = ("application_name", "charset", "connect_timeout", "mode", "sslmode", "timeout", "uri")
"""Names of what in the query of a URL may be written down; whatever else may be a password."""

SHORTEST = 4
"""Letters of a secret that can be found in a text."""

ATTEMPTS = 5
"""To make the tables of a database, beside other workers that do."""


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
    if database.drivername.startswith("sqlite") and not _file_of(database).is_file():
        raise FileNotFoundError(f"the storage {without_password(url)} must exist, but does not.")
    try:
        return RDBStorage(url, skip_table_creation=True)
    except Exception as error:  # whatever the driver of that database raises
        raise _refusal(url, error) from None


@contextmanager
def told(url: str | None) -> Iterator[None]:
    """Say in one line that a database has gone or is damaged, without its password.

    Args:
        url: Of the storage; None where that is no database.

    Raises:
        ConnectionError: If it has gone; what was finished is kept there.
        ValueError: If what stands in it cannot be read.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if url is None or not _is_of_storage(error):
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        raise ConnectionError(
            f"the storage {without_password(url)} must stay reachable, but it raised "
            f"{_said(url, cause or error)}; the same call goes on from its finished trials."
        ) from None
    except (ValueError, TypeError, LookupError) as error:
        if url is None or not _is_of_storage(error):
            raise
        raise ValueError(
            f"the storage {without_password(url)} must hold what was written to it, but is damaged "
            f"({_said(url, error)}); search again in another."
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


def _file_of(database: URL) -> Path:
    """Return the file of an SQLite database, which may itself be named by a URL."""
    name = database.database or ""
    return Path(unquote(urlsplit(name).path) if "uri" in database.query else name)


def _is_of_storage(error: Exception) -> bool:
    """Whether an error was raised by a storage, not by a database of the user's own code."""
    frames = (frame for frame, _ in walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__") == RDBStorage.__module__ for frame in frames)


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
            time.sleep(random.SystemRandom().random())
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
