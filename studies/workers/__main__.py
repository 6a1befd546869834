"""Time one search with one, two and four workers, each network's score taking a second."""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress

import optuna
import torch
from optuna.trial import TrialState

import search
from search.folder.run_folder import RunFolder
from search.pipeline.request import Request, request_of
from search.pipeline.search import search_network
from studies.workers.worker import network, score, work


class Begun(Exception):
    """Ends a search that its workers are to go on with."""


def main() -> None:
    """Search with different numbers of workers, and print trials per second and overhead."""
    options = _options()
    first = 0.0
    for n_workers in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            rate, share = _measured(folder, options, n_workers)
        first = first or rate
        print(
            f"{n_workers} workers: {rate:.2f} trials per second, {rate / first:.2f} times one; "
            f"{share:.1%} of the time in the storage"
        )


def _measured(folder: str, options: argparse.Namespace, n_workers: int) -> tuple[float, float]:
    """Return trials per second, and the share of the time that the workers spend in the storage."""
    name = f"workers{n_workers}-{time.time_ns()}"  # a database is kept
    search_network(_request(name, options.storage, 0), RunFolder(folder), print)  # the layers
    _begin(folder, _request(name, options.storage, options.trials))
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Barrier(n_workers)
    with ProcessPoolExecutor(n_workers, spawn, ready.wait) as pool:
        pending = [pool.submit(work, folder, options.storage) for _ in range(n_workers)]
        shares = [future.result() for future in pending]
    storage = RunFolder(folder).storage(options.storage)
    (study,) = [s for s in optuna.get_all_study_names(storage) if s.startswith(f"{name}/scores/")]
    trials = optuna.load_study(study_name=study, storage=storage).get_trials(
        states=(TrialState.COMPLETE,)
    )
    begun = min(trial.datetime_start for trial in trials)
    ended = max(trial.datetime_complete for trial in trials)
    return len(trials) / (ended - begun).total_seconds(), sum(shares) / n_workers


def _request(name: str, storage: str | None, n_trials: int) -> Request:
    return request_of(
        network(),
        torch.zeros(1, 16, 16, 16),
        budget=search.Budget(flops=0.5),
        n_trials=5,
        max_sequence_length=2,
        include=["*"],
        name=name,
        storage=storage,
        measure_seconds=0,
        n_network_trials=n_trials,
        score=score,
        progress=False,
    )


def _begin(folder: str, request: Request) -> None:
    """Begin a search and leave it to workers."""

    def stop() -> None:
        raise Begun

    with suppress(Begun):
        search_network(request, RunFolder(folder), print, on_begin=stop)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.workers", description=__doc__)
    parser.add_argument("--storage", help="URL of a database; default a file in the run folder")
    parser.add_argument("--trials", type=int, default=24, help="networks that are scored")
    return parser.parse_args()


if __name__ == "__main__":
    main()
