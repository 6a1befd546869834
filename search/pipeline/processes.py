"""Processes that search layers beside this one.

Of small layers Python itself takes more time than arithmetic, and its lock lets one thread at a
time have that: two threads search a ResNet-20 more slowly than one.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import optuna
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from search.folder.run_folder import RunFolder
from search.pipeline.course import Course
from search.pipeline.stages import LayerTask, layer_work, search_layers
from search.workers.claims import joined
from search.workers.processes import STORAGE, Processes, end_with_parent
from sekron.forward.evaluation import one_line
from sekron.network.network_metric import NetworkMetric

WORTH = 20.0
"""Seconds of work that is left, from which processes are begun: each imports torch anew."""

CODE = "from search.pipeline.processes import main; main()"


@contextmanager
def helped(
    run: Path | None,
    storage: str | None,
    weights: Mapping[str, Tensor],
    seconds: Mapping[str, float],
    n_threads: int,
    complain: Callable[[str], object],
) -> Iterator[int]:
    """Let processes search layers within the block, where that pays.

    Args:
        run: The run folder, in which the search was begun; without one there are no processes.
        storage: URL of the Optuna storage, if the search has one.
        weights: Layer name -> weight, of those that are searched.
        seconds: Layer name -> about how long its search will take, of those that are left.
        n_threads: Layers that are searched at the same time.
        complain: Called with why a process has ended too early.

    Yields:
        How many layers this process is to search at the same time.
    """
    number = min(n_threads, len(seconds))
    is_on_cpu = all(weight.device.type == "cpu" for weight in weights.values())
    if run is None or number < 2 or not is_on_cpu or sum(seconds.values()) < WORTH:
        yield n_threads
        return
    here = 1
    with ExitStack() as begun:
        try:
            private = begun.enter_context(tempfile.TemporaryDirectory())
            path = Path(private) / "weights.safetensors"
            # Layers may share one; what is shared is written once for each.
            save_file({name: weights[name].detach().clone().contiguous() for name in seconds}, path)
            arguments = [str(run), str(path)]
            others = Processes(number - 1, CODE, arguments, storage, complain)
            begun.enter_context(others).begin()
        except (OSError, SafetensorError) as error:
            complain(f"no process helps to search layers: {one_line(error)}")
            begun.close()
            here = n_threads
        yield here


def _remove(weights: Path) -> None:
    """Remove the weights that a process was begun with, and their folder."""
    with suppress(OSError):  # others do it too
        weights.unlink()
        weights.parent.rmdir()


def main() -> None:
    """Search layers of a run folder, as one of the processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which is for the search, that ends this one
    run, path = sys.argv[1:]
    end_with_parent(partial(_remove, Path(path)))
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder, weights = RunFolder(run), load_file(path)
    record = folder.read()
    settings, profile = record.settings, record.profile
    metrics = folder.metric() or NetworkMetric()
    storage = folder.begun_trials(os.environ.get(STORAGE))
    work = layer_work(settings, profile, record.weights)
    own = {name: work[name] for name in weights}
    task = LayerTask(settings, profile, metrics, storage, own, folder.factors())
    with joined(storage, settings.name, is_search=False) as claims, Course(False) as course:
        search_layers(task, weights, claims, course, 1)
