"""The command line: its commands, and that each ends with an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import typer
from typer.main import get_command

from search.cli.answers import alone_on_stdout
from search.cli.dashboard import dashboard
from search.cli.deploy import export, verify
from search.cli.failure import fail, say_in_one_line
from search.cli.funnel import funnel
from search.cli.output import TRACEBACK
from search.cli.report import report
from search.cli.results import apply, compare, front
from search.cli.search import layers, search
from search.cli.worker import worker

MODEL = "torchvision.models:resnet18 --input 1x3x224x224"

EXAMPLES: dict[Callable[..., None], str] = {
    layers: MODEL,
    search: f"{MODEL} --weights r18.safetensors --flops 50% --run runs/r18",
    worker: "runs/r18 --weights r18.safetensors",
    front: "runs/r18 --csv",
    apply: "runs/r18 --flops 40% --output small.safetensors",
    compare: "runs/r18 --calibration pictures --normalize imagenet",
    report: "runs/r18 --compare",
    dashboard: "runs/r18 --port 8080",
    funnel: f"{MODEL} --data train.safetensors --params 30% --output small.safetensors",
    export: f"small.safetensors --model {MODEL} --onnx small.onnx",
    verify: f"small.safetensors --model {MODEL} --json",
}
"""Every command, with what may stand behind its name."""

COMPLETE = "_SEKRON_COMPLETE"
"""Variable by which the scripts of `--install-completion` ask."""

EPILOG = f"An error is one line; with {TRACEBACK}, anywhere, all of it is printed."

app = typer.Typer(
    help="Search tensor factorizations that make a trained network smaller and faster.",
    epilog=EPILOG,
)
for command, arguments in EXAMPLES.items():
    epilog = f"Example: sekron {command.__name__} {arguments}\n\n{EPILOG}"
    app.command(epilog=epilog)(alone_on_stdout(command))


def main() -> None:
    """Run the command line; an error or a warning is one line."""
    _open_what_is_closed()
    if COMPLETE in os.environ:  # a shell asks what could stand next
        app(prog_name="sekron")
    arguments = sys.argv[1:] or ["--help"]
    say_in_one_line()
    try:
        code = _invoke([argument for argument in arguments if argument != TRACEBACK])
    except BaseException as error:  # whatever the user's code raises
        code = fail(error, whole=TRACEBACK in arguments)
    sys.exit(code)


def _open_what_is_closed() -> None:
    """Have what is written to a stream that the shell has closed, as `>&-` does, go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  to the end
            setattr(sys, name, nowhere)


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
