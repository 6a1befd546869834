"""The command line: its commands, and that each ends with an exit code."""

from __future__ import annotations

import sys

import typer
from typer.main import get_command

from search.cli.deploy import export, verify
from search.cli.failure import fail, say_in_one_line
from search.cli.funnel import funnel
from search.cli.output import TRACEBACK
from search.cli.report import report
from search.cli.results import apply, compare, front
from search.cli.search import layers, search
from search.cli.worker import worker

COMMANDS = (layers, search, worker, front, apply, compare, report, funnel, export, verify)

EPILOG = f"An error is one line; with {TRACEBACK}, anywhere, all of it is printed."

app = typer.Typer(
    help="Search tensor factorizations that make a trained network smaller and faster.",
    epilog=EPILOG,
    add_completion=False,
)
for command in COMMANDS:
    app.command(epilog=EPILOG)(command)


def main() -> None:
    """Run the command line; an error or a warning is one line."""
    arguments = sys.argv[1:] or ["--help"]
    say_in_one_line()
    try:
        code = _invoke([argument for argument in arguments if argument != TRACEBACK])
    except BaseException as error:  # whatever the user's code raises
        code = fail(error, whole=TRACEBACK in arguments)
    sys.exit(code)


def _invoke(arguments: list[str]) -> int:
    """Run a command and return its exit code; typer's own way would handle some errors itself."""
    code = 0
    try:
        with get_command(app).make_context("sekron", arguments) as context:
            context.command.invoke(context)
    except typer.Exit as exit_:
        code = exit_.exit_code  # after help
    sys.stdout.flush()  # that nobody reads is noticed here, and not when Python ends
    return code
