"""What the commands print: tables and lines on stdout, complaints on stderr."""

from __future__ import annotations

import sys

import pandas as pd
from rich.console import Console
from rich.table import Table

from search.front.result import SearchResult
from sekron.budget import RESOURCES

TRACEBACK = "--traceback"
"""Argument, anywhere on the command line, that has whole tracebacks printed."""

SHOWN_BY = f"({TRACEBACK} shows where)"
"""Ends the line of an error that comes from the user's code."""

BEGIN, END = 1000, 300
"""Characters of a complaint that are shown: what is quoted in it may be a file."""


def print_front(result: SearchResult) -> None:
    """Print a front as a table that fits a terminal."""
    frame = result.pareto_front()
    frame.insert(1, "layers", [len(plan) for plan in frame["plan"]])
    print_frame(frame.drop(columns=["plan", *RESOURCES]))  # the ratios say it


def print_frame(frame: pd.DataFrame) -> None:
    """Print a frame as a table."""
    table = Table(box=None, header_style="bold")
    for column in frame.columns:
        right = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(str(column), justify="right" if right else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 200, markup=False).print(table)


def say(text: str) -> None:
    """Print a line on stdout."""
    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(text)


def complain(text: str) -> None:
    """Print an error or a warning as one line on stderr; of a long one its begin and its end."""
    line = " ".join(text.split())
    if len(line) > BEGIN + END:
        line = f"{line[:BEGIN]} … {line[-END:]}"
    note(f"sekron: {line}")


def note_uncounted(unsupported: dict[str, int]) -> None:
    """Print the operators that fvcore does not count, if there are any."""
    if unsupported:
        names = ", ".join(f"{name} ({count}×)" for name, count in sorted(unsupported.items()))
        note(f"not counted by fvcore: {names}")


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
