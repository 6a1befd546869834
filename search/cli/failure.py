"""How a command fails: one line on stderr and an exit code, whatever was raised."""

from __future__ import annotations

import os
import sys
import threading
import traceback
import warnings
from contextlib import suppress

import typer

from search.cli.output import SHOWN_BY, complain
from sekron.forward.evaluation import said

WRONG_USE = (ValueError, TypeError, OSError, ImportError, NotImplementedError)
"""What is raised about what the user gave; anything else went wrong by itself."""

OURS = frozenset({"search", "baselines", "sekron"})
"""Packages whose errors of these classes are whole sentences."""

QUOTED = 500
"""Characters of another's error that are shown."""

INTERRUPTED = (
    "interrupted; what a run folder or --folder holds is kept: the same command goes on from it"
)


def fail(error: BaseException, whole: bool) -> int:
    """Say why a command ends, and return its exit code.

    Args:
        error: What was raised, by us or by the user's code.
        whole: Whether to print its traceback, which ends with what else would be printed alone.

    Returns:
        2 for wrong use, 130 for an interruption, 1 for anything else.
    """
    if _is_closed_pipe(error):
        with suppress(OSError, ValueError):  # else Python complains when it flushes at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    with suppress(OSError, SystemExit):  # nobody reads stderr
        if isinstance(error, KeyboardInterrupt):
            complain(INTERRUPTED)
            return 130
        if isinstance(error, typer.TyperException):
            complain(error.format_message())
        elif whole:
            traceback.print_exception(error)
        else:
            complain(_sentence(error))
    return 2 if isinstance(error, (typer.TyperException, *WRONG_USE)) else 1


def say_in_one_line() -> None:
    """Shorten what Python itself would report: warnings, and errors that end no command.

    Those are raised in threads, in `__del__`, and by what runs at exit.
    """

    def report(raised: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        if raised.exc_value is not None and raised.exc_type is not SystemExit:
            complain(f"ignored {_foreign(raised.exc_value)}")

    warnings.showwarning = lambda message, *_: complain(_text(message))
    threading.excepthook = sys.unraisablehook = report


def _sentence(error: BaseException) -> str:
    if isinstance(error, WRONG_USE) and _is_ours(error):
        return said(error)
    return f"{_foreign(error)} {SHOWN_BY}"


def _foreign(error: BaseException) -> str:
    """Return the class of an error and what it says, in a readable length."""
    text = _text(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _text(error: BaseException) -> str:
    """Return what another's error says as one line, without the traceback that is quoted in it."""
    before, mark, quoted = said(error).partition("Traceback (most recent call last)")
    last = quoted.splitlines()[-1] if mark else ""  # workers of a loader quote theirs
    text = " ".join(f"{before.removesuffix('Original ')} {last}".split())
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"


def _is_closed_pipe(error: BaseException) -> bool:
    """Whether whoever read the output has gone, as `head` does."""
    if isinstance(error, SystemExit):
        return _raised_in(error) == "rich.console"
    if not isinstance(error, BrokenPipeError):
        return False
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return _is_ours(error)  # else another pipe, of the user's code


def _is_ours(error: BaseException) -> bool:
    return _raised_in(error).partition(".")[0] in OURS


def _raised_in(error: BaseException) -> str:
    """Return the name of the module that raised an error."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
