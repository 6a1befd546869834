"""The command line: its commands, and how an error of theirs is said."""

from __future__ import annotations

import sys
import warnings

import typer

from search.cli.funnel import funnel
from search.cli.output import complain
from search.cli.report import report
from search.cli.results import apply, compare, front
from search.cli.search import layers, search

COMMANDS = (layers, search, front, apply, compare, report, funnel)

app = typer.Typer(
    help="Search tensor factorizations that make a trained network smaller and faster.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command line; an error or a warning is one line, an error exits with code 2."""
    warnings.showwarning = lambda message, *_: complain(str(message))
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except typer.TyperException as error:
        complain(error.format_message())
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        complain(str(error))
    sys.exit(2)
