"""`sekron worker`: one more process for a search, and those that `--workers` begins."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
import typer

from search.cli.arguments import (
    Calibration,
    Images,
    Json,
    NamedModel,
    Normalize,
    Run,
    Weights,
    check_with,
)
from search.cli.calibration import load_calibration
from search.cli.output import print_json, say
from search.cli.sources import load_model, load_score
from search.cli.trust import model_of
from search.folder.run_folder import RunFolder
from search.folder.storage import without_password
from search.pipeline.join import join
from search.workers.processes import STORAGE

CODE = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # the search ends this one
    "from search.workers.processes import end_with_parent; end_with_parent(); "
    "from search.cli.app import main; main()"
)
"""Of a worker that another process begins."""


def worker(
    run: Run,
    model: NamedModel = "",
    weights: Weights = "",
    storage: Annotated[
        str | None, typer.Option(envvar=STORAGE, help="Optuna storage URL, if the search has one.")
    ] = None,
    score: Annotated[
        str, typer.Option(help="The search's, to help with it; without one only layers are.")
    ] = "",
    calibration: Calibration = "",
    normalize: Normalize = None,
    images: Images = None,
    threads: Annotated[
        int | None, typer.Option(help="Layers searched at a time; default as torch has threads.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Help with a search that another process has begun, from any machine.

    The run folder is shared, or a copy if the trials are in a database. Workers may be killed.
    """
    check_with("--score", bool(score), calibration=calibration)
    record = RunFolder(run).read()
    if calibration and not record.source.inputs:
        raise ValueError(
            f"{run} must say what its network takes, but does not: give the same `sekron search` "
            "again, or use `search.join` where it was searched from Python."
        )
    with _interrupted_by(signal.SIGTERM):
        is_done = join(
            load_model(model_of(run, record, model), weights or record.source.weights),
            run,
            storage=storage,
            score=load_score(score) if score else None,
            calibration=load_calibration(calibration, record.source.inputs, normalize, images),
            n_threads=torch.get_num_threads() if threads is None else threads,
        )
    if as_json:
        print_json({"run": run, "done": is_done})
    elif is_done:
        given = "" if storage is None else f" --storage {shlex.quote(without_password(storage))}"
        say(f"{run}: done; `sekron front {shlex.quote(run)}{given}` shows it")
    else:
        say(f"{run}: all layers are done; what is left is timed or scored by `sekron search`")


@contextmanager
def _interrupted_by(number: signal.Signals) -> Iterator[None]:
    """Take a signal for an interruption, so that what is in hand is given back at once."""
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)
