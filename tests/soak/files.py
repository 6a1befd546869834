"""Damaged files of run folders, trainings, networks and inputs, and the commands that read them."""

import random
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from tests.soak.command import Answer, answer_of
from tests.soak.damaged import damage
from tests.soak.ground import FUNNEL, INPUT, MODEL, RICH, STORED, UNTIMED, URL, copy_of
from tests.soak.tally import Finding
from tests.soak.verdict import changed, refusal, said, snapshot

LIMIT = 60.0
"""Seconds after which a command hangs."""

FACTORS = 3
"""Files of factors that are damaged: there are more of them than of all others together."""

NAMED = ("run", "--model", MODEL)
OUTPUT = ("--output", "out.safetensors")
LOADED = (
    ("python", "load"),
    ("export", "small.safetensors", "--model", MODEL, *INPUT, "--pt2", "out.pt2"),
)
SEARCH = ("search", MODEL, *UNTIMED, "--run", "fresh")
PICTURES = (*SEARCH, "--calibration", "pictures", "--normalize", "half", "--output-kind", "logits")
READERS = {
    "run/*": (
        ("front", "run", "--json"),
        ("front", "run", "--csv"),
        ("apply", *NAMED, *OUTPUT),
        ("apply", "run", *OUTPUT),
        ("compare", *NAMED, "--max-seconds", "1", "--json"),
        ("report", "run", "--json"),
        ("dashboard", "run", "--port", "0", "--json"),
        RICH,
    ),
    "run/comparison.csv": (("compare", *NAMED, "--json"), ("report", "run", "--json")),
    "run/latency.json": (("front", "run", "--json"), RICH),
    "run/plan.json": (("python", "plan"),),
    "run/metric-*": (("python", "plan"), ("apply", *NAMED, *OUTPUT), RICH),
    "small.safetensors": LOADED,
    "train/*": (FUNNEL,),
    "tuned/*": (("python", "finetune"),),
    "trials.db": (("front", "stored", "--storage", URL, "--json"), STORED),
    "stored/*": (("front", "stored", "--storage", URL, "--json"), STORED),
    "weights.*": (("layers", MODEL, *INPUT, "--json", "--weights"), (*SEARCH, "--weights")),
    "images.*": (RICH,),
    "data.*": (FUNNEL,),
    "pictures/*": (PICTURES,),
}
"""Pattern of files -> commands that read them; where two fit, either."""

WRITTEN = {
    "search": ("run", "fresh", "stored", "trials.db"),
    "compare": ("run/comparison.csv", "run/.comparison.csv"),
    "report": ("run/report.html",),
    "apply": ("out.safetensors",),
    "export": ("out.pt2",),
    "funnel": ("out.safetensors", "train"),
    "python finetune": ("out.safetensors", "tuned"),
}
"""Command -> what it may write."""


def damages(user: Path, parent: Path, seed: int, numbers: Iterator[int]) -> Iterator[Finding]:
    """Damage a file for each number, read it with a command, and yield what came of it.

    Args:
        user: Folder of the user on the ground.
        parent: Where copies of it are made.
        seed: Together with a number, decides file, damage and command.
        numbers: Of the attacks.
    """
    names = [str(path.relative_to(user)) for path in sorted(user.rglob("*")) if path.is_file()]
    kept = [name for name in names if fnmatch(name, "*/factors/*")]
    names = sorted(set(names) - set(kept[FACTORS:]))
    read = [name for name in names if any(fnmatch(name, pattern) for pattern in READERS)]

    @cache
    def whole(arguments: tuple[str, ...]) -> object:
        folder = copy_of(user, parent / "whole")
        try:
            return said(answer_of(arguments, folder, LIMIT))
        finally:
            shutil.rmtree(folder.parent)

    for number in numbers:
        draw = random.Random(f"{seed}/files/{number}")
        name = read[number % len(read)]
        fitting = [commands for pattern, commands in READERS.items() if fnmatch(name, pattern)]
        arguments = draw.choice([command for commands in fitting for command in commands])
        arguments += (name,) if arguments[-1] == "--weights" else ()
        if draw.random() < 0.1 and "--json" in arguments:
            arguments = tuple(part for part in arguments if part != "--json")
        folder = copy_of(user, parent / f"damaged-{number}")
        how = damage(folder / name, draw)
        before = snapshot(folder.parent)
        answer = answer_of(arguments, folder, LIMIT)
        wrote = changed(before, snapshot(folder.parent), _allowed(arguments))
        outcome, fault = _outcome(answer, whole(arguments))
        if wrote:
            fault = f"{fault} wrote {wrote}".strip()
        place = name.split("/epoch-")[0] if "/epoch-" in name else name
        place = f"{place}/…/{Path(name).name}" if "/epoch-" in name else place
        shown = " ".join(arguments[:2])
        if fault or outcome in REMARKABLE:
            fault = fault and f"{fault} (command: {shown})"
            print(f"  {outcome}: files:{number} {name}, {how}, {shown}: {answer.err[-300:]!r}")
        yield Finding(f"files:{number}", place, how, outcome, fault)
        shutil.rmtree(folder.parent)


REMARKABLE = ("refused in another's words", "another answer")
"""Outcomes that somebody should look at."""


def _allowed(arguments: tuple[str, ...]) -> list[str]:
    command = " ".join(arguments[:2]) if arguments[0] == "python" else arguments[0]
    return [f"user/{name}" for name in WRITTEN.get(command, ())]


def _outcome(answer: Answer, wanted: object) -> tuple[str, str]:
    if answer.code != 0 or not answer.in_time:
        return refusal(answer)
    if "Traceback" in answer.err:
        return "traceback", answer.err[-1500:]
    if said(answer) == wanted:
        return "the same answer", ""
    told = any(
        line.startswith(("sekron: ", "skipped ", "the search in "))
        for line in answer.err.splitlines()
    )
    return ("another answer, with a word" if told else "another answer"), ""
