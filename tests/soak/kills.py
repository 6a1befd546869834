"""Commands killed at random moments, then run to their end: as if nothing had been."""

import json
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import optuna
import pandas as pd
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from baselines.rows import SEAL
from search.folder.run_folder import CANDIDATES, FRONT, PLAN, SCORES, RunFolder
from search.folder.storage import read_storage
from search.per_layer.samplers import SAMPLERS
from tests.soak.command import Answer, answer_of
from tests.soak.ground import CALIBRATED, FUNNEL, MODEL, QUICK, SCORED, UNTIMED, URL, copy_of
from tests.soak.tally import Finding
from tests.trials import CLAIMS

LIMIT = 180.0
"""Seconds after which a command that was not killed hangs."""

HUNG = 1000
"""Stands for the exit code of what was not done in time."""

MOST_KILLS = 3
"""Of one command, one after the other."""


@dataclass(frozen=True, slots=True)
class Killed:
    """A command that writes.

    Attributes:
        arguments: Of it.
        product: Folder -> what it has made, alike whenever the same was done.
        fresh: What an earlier run of it has left on the ground, and is taken away first.
    """

    arguments: tuple[str, ...]
    product: Callable[[Path], object]
    fresh: tuple[str, ...] = ()


def file_in(name: str) -> Callable[[Path], object]:
    """Return a function that reads a file of a folder."""
    return lambda folder: (folder / name).read_bytes()


def network_in(folder: Path) -> object:
    """Return the header and the tensors of a compressed network; its own entries have no order."""
    content = (folder / "out.safetensors").read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def trials_in(storage: BaseStorage) -> object:
    """Return all finished trials and how often each was made, without what workers note."""
    return Counter(
        (summary.study_name, json.dumps(trial.params, sort_keys=True), str(trial.values))
        for summary in optuna.get_all_study_summaries(storage)
        if not summary.study_name.endswith(CLAIMS)
        for trial in optuna.load_study(study_name=summary.study_name, storage=storage).trials
        if trial.state == TrialState.COMPLETE
    )


def run_in(folder: Path) -> object:
    """Return all that a search without a clock has made."""
    run, database = RunFolder(folder / "fresh"), folder / "trials.db"
    url = f"sqlite:///{database}" if database.exists() else None
    files = [run.path / name for name in (CANDIDATES, FRONT, PLAN, SCORES)]
    trials = trials_in(run.storage() if url is None else read_storage(url))
    return trials, [path.read_bytes() for path in files if path.exists()]


def rows_in(folder: Path) -> object:
    """Return the rows of a comparison without their times, of which their checksums know too."""
    rows = pd.read_csv(folder / "run" / "comparison.csv")
    rows = rows.drop(columns=["seconds", "latency_ms", "speedup"])
    rows["fingerprint"] = rows["fingerprint"].str.partition(SEAL)[0]
    return sorted(rows.to_csv(index=False).splitlines())


def searched(*options: str) -> Killed:
    """Return a search into a folder of its own."""
    return Killed(("search", MODEL, *options, "--run", "fresh"), run_in, ("trials.db",))


NAMED = ("run", "--model", MODEL)
COMMANDS = {
    **{f"search, {name}": searched(*UNTIMED, "--sampler", name) for name in SAMPLERS},
    "search, calibrated and scored": searched(*UNTIMED, *CALIBRATED, *SCORED),
    "search, in a database": searched(*UNTIMED, "--storage", URL),
    "search, on the clock": Killed(
        ("search", MODEL, *QUICK, "--measure-seconds", "1", "--run", "fresh"),
        lambda folder: trials_in(RunFolder(folder / "fresh").storage()),
    ),
    "apply": Killed(("apply", *NAMED, "--output", "out.safetensors"), network_in),
    "compare": Killed(("compare", *NAMED), rows_in, ("run/comparison.csv",)),
    "report": Killed(("report", "run"), file_in("run/report.html")),
    "funnel": Killed(FUNNEL, network_in, ("train", "out.safetensors")),
    "finetune": Killed(("python", "finetune"), network_in, ("tuned", "out.safetensors")),
    "export": Killed(
        ("export", "small.safetensors", "--model", MODEL, *QUICK[:2], "--onnx", "out.onnx"),
        file_in("out.onnx"),
    ),
}
"""Every command that writes, and every sampler."""

OURS = (".study.lock", ".lock")
"""Ends of the names of hidden files that are meant to stay."""


def kills(user: Path, parent: Path, seed: int, numbers: Iterator[int]) -> Iterator[Finding]:
    """Kill a command for each number, in turn, and yield what came of it.

    Args:
        user: Folder of the user on the ground.
        parent: Where copies of it are made.
        seed: Together with a number, decides the moments.
        numbers: Of the attacks.
    """

    undisturbed = undisturbed_in(parent, user)
    for number in numbers:
        name = list(COMMANDS)[number % len(COMMANDS)]
        draw = random.Random(f"{seed}/kills/{number}")
        folder = begun(name, user, parent / f"killed-{number}")
        answer, wanted = undisturbed(name)
        struck = _struck(name, folder, draw, answer)
        ended = answer_of(COMMANDS[name].arguments, folder, LIMIT)
        hung = any(code == HUNG for code, _ in struck)
        fault = "hung" if hung else fault_of(name, ended, folder, wanted)
        moments = ", ".join(f"{code} {moment}" for code, moment in struck)
        fault = fault and f"{fault} (moments: {moments})"
        for code, moment in struck:
            kind = "before a change of the disk" if moment.startswith("at") else "at a time"
            outcome = "killed" if code == -signal.SIGKILL else "had ended before"
            yield Finding(f"kills:{number}", name, kind, outcome, fault)
            fault = ""
        left = [path.name for path in folder.rglob(".*") if not path.name.endswith(OURS)]
        yield Finding(f"kills:{number}", name, "all", "leaves parts" if left else "leaves nothing")
        shutil.rmtree(folder.parent)


def undisturbed_in(parent: Path, user: Path) -> Callable[[str], tuple[Answer, object]]:
    """Return a function that tells what a command answers and makes where nothing disturbs it."""

    @cache
    def undisturbed(name: str) -> tuple[Answer, object]:
        folder = begun(name, user, parent / "undisturbed")
        answer = answer_of(COMMANDS[name].arguments, folder, LIMIT)
        try:
            return answer, COMMANDS[name].product(folder)
        finally:
            shutil.rmtree(folder.parent)

    return undisturbed


def begun(name: str, user: Path, parent: Path) -> Path:
    """Return a copy of the user's folder, without what the command is to make there."""
    folder = copy_of(user, parent)
    for left in COMMANDS[name].fresh:
        path = folder / left
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder


def _struck(name: str, folder: Path, draw: random.Random, whole: Answer) -> list[tuple[int, str]]:
    """Kill a command once or some times; return the exit codes and the moments."""
    arguments, struck = COMMANDS[name].arguments, []
    for _ in range(draw.randint(1, MOST_KILLS)):
        if draw.random() < 0.5:
            change = draw.randint(1, whole.n_changes)
            answer = answer_of(arguments, folder, LIMIT, change)
            struck.append((answer.code if answer.in_time else HUNG, f"at change {change}"))
        else:
            share = draw.random()
            answer = answer_of(arguments, folder, share * whole.seconds)
            struck.append((answer.code, f"after {share:.0%}"))
        if answer.code == 0:
            break
    return struck


def fault_of(name: str, ended: Answer, folder: Path, wanted: object) -> str:
    """Return what is wrong with a command that was to do all that is wanted."""
    if not ended.in_time:
        return "hangs"
    if ended.code:
        return f"exit code {ended.code}: {ended.err[-600:]!r}"
    if COMMANDS[name].product(folder) != wanted:
        return "another outcome than undisturbed"
    return ""
