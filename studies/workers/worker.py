"""A search that takes its time over scores, and a worker of it that times its storage."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from itertools import pairwise
from typing import Any

import torch
from optuna.storages import BaseStorage
from torch import nn

import search
from search.folder.run_folder import RunFolder

SECONDS = 1.0
"""That a score takes."""


def network() -> nn.Module:
    """Return a network of layers unlike each other, so that its trials differ; untrained."""
    torch.manual_seed(0)
    sizes = (16, 20, 24, 28, 32, 32, 28, 24, 20, 16, 12)
    return nn.Sequential(*(nn.Conv2d(c, f, 3, padding=1) for c, f in pairwise(sizes)))


def score(model: nn.Module) -> float:
    """Return how little of a network is left, after a second."""
    time.sleep(SECONDS)
    return -float(sum(weight.numel() for weight in model.parameters()))


def work(folder: str, url: str | None) -> float:
    """Be a worker; return the share of its time that it spent in the storage."""
    torch.set_num_threads(1)
    spent, trials = [0.0], RunFolder.trials
    RunFolder.trials = lambda run, url: _timed(trials(run, url), spent)
    begun = time.perf_counter()
    search.join(network(), folder, storage=url, score=score, progress=False)
    return spent[0] / (time.perf_counter() - begun)


def _timed(storage: BaseStorage, spent: list[float]) -> BaseStorage:
    """Add up the time that this thread spends in a storage."""
    inside = threading.local()

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def call(*arguments: Any, **named: Any) -> Any:
            is_outer = not getattr(inside, "is_inside", False)
            inside.is_inside, begun = True, time.perf_counter()
            try:
                return method(*arguments, **named)
            finally:
                if is_outer:
                    inside.is_inside = False
                    spent[0] += time.perf_counter() - begun

        return call

    for name in dir(BaseStorage):
        if not name.startswith("_"):
            setattr(storage, name, timed(getattr(storage, name)))
    return storage
