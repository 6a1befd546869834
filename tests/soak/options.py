"""Odd arguments for every option and argument of every command."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from typer.main import get_command

from search.cli.app import app
from tests.soak.command import answer_of
from tests.soak.files import REMARKABLE
from tests.soak.ground import FUNNEL, INPUT, MODEL, SCORE, UNTIMED, copy_of
from tests.soak.odd_values import GIVEN
from tests.soak.tally import Finding
from tests.soak.verdict import changed, refusal, snapshot

LIMIT = 60.0
"""Seconds after which a command hangs."""

NAMED = ("run", "--model", MODEL)
OUTPUT = ("--output", "out.safetensors")
EXAMPLES: dict[str, tuple[str, ...]] = {
    "layers": (MODEL, *INPUT),
    "search": (MODEL, *UNTIMED, "--run", "fresh"),
    "worker": NAMED,
    "front": ("run",),
    "apply": (*NAMED, *OUTPUT),
    "compare": (*NAMED, "--max-seconds", "1"),
    "report": ("run",),
    "dashboard": ("run", "--port", "0"),
    "funnel": FUNNEL[1:],
    "export": ("small.safetensors", "--model", MODEL, *INPUT, "--pt2", "out.pt2"),
    "verify": ("none.safetensors", "--model", MODEL, *INPUT),  # a whole one takes minutes
}
"""Command -> arguments that suit it, its own argument first."""

WITH: dict[str, tuple[str, ...]] = {
    "--normalize": ("--calibration", "pictures"),
    "--images": ("--calibration", "images.safetensors"),
    "--calibration": ("--normalize", "half"),
    "--network-trials": ("--score", SCORE),
    "--min-score": ("--score", SCORE),
    "--measure-seconds": (),
    "--opset": ("--onnx", "out.onnx"),
    "--output-kind": ("--calibration", "images.safetensors"),
}
"""Option -> what else must be given for it to matter."""

ASKED = ("--epochs", "--network-trials", "--measure-seconds", "--max-seconds", "--strength")
"""Options with which a user may ask for as much time as there is."""


def odd_options(user: Path, parent: Path, seed: int, numbers: Iterator[int]) -> Iterator[Finding]:
    """Give a command an odd argument for each number, and yield what came of it.

    Args:
        user: Folder of the user on the ground.
        parent: Where copies of it are made.
        seed: Together with a number, decides the argument.
        numbers: Of the attacks.
    """
    places = list(_places())
    for number in numbers:
        draw = random.Random(f"{seed}/options/{number}")
        command, option, kind = places[number % len(places)]
        value = draw.choice(GIVEN)
        folder = copy_of(user, parent / f"given-{number}")
        before = snapshot(folder.parent)
        answer = answer_of(_arguments(command, option, kind, value), folder, LIMIT)
        wrote = changed(before, snapshot(folder.parent), ("user/", f"{value}/".removeprefix("../")))
        if answer.code == 0 and answer.in_time:
            outcome, fault = "accepted", ""
            fault = answer.err[-1500:] if "Traceback" in answer.err else ""
        else:
            outcome, fault = refusal(answer)
        if outcome == "hung" and option in ASKED:
            outcome, fault = "takes the time that was asked for", ""
        if wrote:
            fault = f"{fault} wrote {wrote}".strip()
        if fault or outcome in REMARKABLE:
            print(f"  {outcome}: options:{number} {command} {option}: {answer.err[-300:]!r}")
        yield Finding(f"options:{number}", f"{command} {option}", f"{value[:40]!a}", outcome, fault)
        shutil.rmtree(folder.parent)


def _places() -> Iterator[tuple[str, str, str]]:
    """Yield every command with every parameter of it, and whether that is a flag."""
    for command, made in get_command(app).commands.items():
        for parameter in made.params:
            name = max(parameter.opts, key=len)
            if name != "--help":
                kind = "argument" if parameter.param_type_name == "argument" else "option"
                yield command, name, "flag" if getattr(parameter, "is_flag", False) else kind


def _arguments(command: str, option: str, kind: str, value: str) -> tuple[str, ...]:
    example = EXAMPLES[command]
    if kind == "argument":
        return command, *example[1:], "--", value
    if kind == "flag":
        return command, *example, option, value
    if option == "--input":
        place = example.index("--input")
        return command, *example[: place + 1], value, *example[place + 2 :]
    return command, *example, *WITH.get(option, ()), option, value
