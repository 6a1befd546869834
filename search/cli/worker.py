"""`sekron worker`: one more process for a search, and those that `--workers` begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Annotated

import torch
import typer

from search.cli.arguments import Calibration, Images, Json, NamedModel, Normalize, Run, Weights
from search.cli.calibration import load_calibration
from search.cli.output import complain, print_json, say
from search.cli.sources import load_model, load_score
from search.cli.trust import model_of
from search.folder.run_folder import RunFolder
from search.pipeline.join import join

STORAGE = "SEKRON_STORAGE"
"""Variable of the environment that may hold the URL of the storage: others can read options."""


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
    record = RunFolder(run).read()
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
        say(f"{run}: done; `sekron front {run}` shows it")
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


class LocalWorkers:
    """Further workers on this machine, which end with their search.

    Args:
        number: Of them.
        options: Of `sekron worker`.
        storage: URL of the storage, or None.
    """

    def __init__(self, number: int, options: Sequence[str], storage: str | None) -> None:
        self._number, self._options, self._storage = number, options, storage
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[Thread] = []
        self._is_over = False

    def __enter__(self) -> LocalWorkers:
        """Begin nothing yet: there is no search to help with."""
        return self

    def begin(self) -> None:
        """Begin them."""
        code = "from search.cli.app import main; main()"
        environment = dict(os.environ)
        if self._storage is not None:
            environment[STORAGE] = self._storage
        for _ in range(self._number):
            process = subprocess.Popen(
                [sys.executable, "-c", code, "worker", *self._options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            thread = Thread(target=self._follow, args=(process,), daemon=True)
            thread.start()
            self._processes.append(process)
            self._threads.append(thread)

    def __exit__(self, *_: object) -> None:
        """End them: all is done, or the search has failed and others may go on."""
        self._is_over = True
        for process in self._processes:
            process.terminate()
        for thread in self._threads:
            thread.join()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Wait for a worker, and say why it ended if that was not the end of the search."""
        _, said = process.communicate()
        if process.returncode and not self._is_over:
            last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            complain(f"a worker has ended: {last[0].removeprefix('sekron: ')}")
