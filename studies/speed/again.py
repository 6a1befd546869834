"""The plans of an earlier run, timed in a process of their own."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

import search
from sekron import Plan
from studies.speed.sides import Setting, applied
from studies.training import RUNS

SECONDS = 30.0
"""Longest race."""

WARM_UP, ROUNDS = 10, 100
"""Rounds of the plain loop that are not counted, and that are."""


def again(setting: Setting) -> list[dict[str, object]]:
    """Return the time of the plan for 60 % of the latency over the dense network's.

    Returns:
        latency with its 95 % interval low, high; and plain, the same ratio by a plain loop that
        leaves the allocator to itself. Nothing for a setting without such a plan.
    """
    path = RUNS / f"speed-{setting}.json"
    if not path.exists():
        return []
    network, x = setting.model(), setting.images()
    small = applied(network, Plan.load(path))
    plain = _plain_ratio(network, small, x)
    clock = search.compare(network, small, x, precision=0.005, max_seconds=SECONDS)
    return [
        {
            "latency": 1 / clock.ratio,
            "low": 1 / clock.high,
            "high": 1 / clock.low,
            "plain": plain,
        }
    ]


def _plain_ratio(dense: nn.Module, small: nn.Module, x: Tensor) -> float:
    ratios = []
    with torch.no_grad():
        for _ in range(WARM_UP + ROUNDS):
            times = []
            for network in (dense, small):
                start = time.perf_counter()
                network(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
            ratios.append(times[1] / times[0])
    return float(np.median(ratios[WARM_UP:]))
