"""Where commands answer: on stdout, where nothing else shall stand that a program could misread."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from contextvars import ContextVar
from functools import wraps
from typing import TextIO

_STREAM: ContextVar[TextIO | None] = ContextVar("answers", default=None)


def answers() -> TextIO:
    """Return the stream that answers are written to."""
    return _STREAM.get() or sys.stdout


def alone_on_stdout(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command on whose stdout nothing but its answers stands.

    What the user's code prints, and what libraries print past Python, goes to stderr.
    """

    @wraps(command)
    def answering(*args: object, **options: object) -> None:
        with _apart() as stream, redirect_stdout(sys.stderr):
            token = _STREAM.set(stream)
            try:
                command(*args, **options)
            finally:
                _STREAM.reset(token)
            stream.flush()  # that nobody reads is noticed here, and not when Python ends

    return answering


@contextmanager
def _apart() -> Iterator[TextIO]:
    """Give a stream to what stdout is now, and have stdout's own descriptor lead to stderr.

    It stays so until the process ends, for that is when libraries in C write what they have kept.
    """
    try:
        kept = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    except (OSError, ValueError):  # no file is behind it
        yield sys.stdout
        return
    stream = os.fdopen(kept, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    try:
        yield stream
    finally:
        with suppress(OSError):  # that nobody reads was raised before
            stream.close()
