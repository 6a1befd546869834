"""What the commands print: tables and lines as answers, complaints on stderr."""

from __future__ import annotations

from typing import Any

import msgspec
import pandas as pd
from rich.console import Console, Group
from rich.table import Table

from search.cli.answers import answers
from search.cli.as_typed import as_typed
from search.cli.front_plot import front_plot
from search.front.result import SearchResult
from sekron.budget import RESOURCES
from sekron.network.plan import Plan

TRACEBACK = "--traceback"
"""Argument, anywhere on the command line, that has whole tracebacks printed."""

SHOWN_BY = f"({TRACEBACK} shows where)"
"""Ends the line of an error that comes from the user's code."""

UNLIMITED = 1000
"""Letters of a line that is as long as it likes."""

SMALL = 0.01
"""Below it four digits behind the point say little."""

BEGIN, END = 1000, 300
"""Characters of a complaint that are shown: what is quoted in it may be a file."""


def print_front(result: SearchResult) -> None:
    """Print a front as a table that fits a terminal, a picture of it beside or below."""
    frame = result.pareto_front()
    plot = front_plot(frame, result.best_row, result.limits())
    frame.insert(1, "layers", [len(plan) for plan in frame["plan"]])
    table = _table(frame.drop(columns=["plan", *RESOURCES]))  # the ratios say it
    both = Table.grid(padding=(0, 3))
    both.add_row(table, plot)
    console = _console()
    wanted = console.measure(both, options=console.options.update_width(UNLIMITED)).maximum
    console.print(both if wanted <= console.width else Group(table, plot))


def print_frame(frame: pd.DataFrame) -> None:
    """Print a frame as a table."""
    _console().print(_table(frame))


def print_json(value: object) -> None:
    """Print a value as JSON; a number that is not finite is null."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=1)
    answers().write(f"{text.decode()}\n")
    answers().flush()  # a command may go on


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a frame as JSON has it, a mapping of column to value for each row.

    A plan is its digest, and the structures of its layers.
    """
    rows = [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]
    for row in rows:
        plan = row.get("plan")
        if isinstance(plan, Plan):
            row |= {"plan": plan.digest, "structures": {name: str(plan[name]) for name in plan}}
    return rows


def _console() -> Console:
    return Console(file=answers(), width=None if answers().isatty() else 200, markup=False)


def _table(frame: pd.DataFrame) -> Table:
    table = Table(box=None, header_style="bold")
    for column in frame.columns:
        right = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(_shown(str(column)), justify="right" if right else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    return table


def say(text: str) -> None:
    """Print a line as an answer."""
    Console(file=answers(), soft_wrap=True, markup=False, highlight=False).print(_shown(text))


def note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(_shown(text))


def _shown(text: str) -> str:
    """Return a text without what would command the terminal: it may hold a stranger's words."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def complain(text: str) -> None:
    """Print an error or a warning as one line on stderr; of a long one its begin and its end."""
    line = as_typed(" ".join(text.split()))
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
        return _shown("x".join(map(str, value)))
    if isinstance(value, float):
        return f"{value:.4g}" if 0.0 < abs(value) < SMALL else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else _shown(str(value))
