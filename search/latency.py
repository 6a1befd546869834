"""The clock: how long a forward pass takes, and which of two networks is faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from search.profiling import Inputs, evaluating

WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass in milliseconds: the median, and the middle half of the runs."""

    median_ms: float
    low_ms: float
    high_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise single runs."""
        low, middle, high = quantiles(seconds, n=4)
        return cls(1e3 * middle, 1e3 * low, 1e3 * high)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two networks timed in turn.

    Attributes:
        first: Time of the first.
        second: Time of the second.
        ratio: Median over the pairs of first / second; above 1 the second is faster.
    """

    first: Latency
    second: Latency
    ratio: float


def latency(model: nn.Module, example_input: Inputs, n_runs: int = 20) -> Latency:
    """Measure the forward pass in evaluation, without gradients, after a warm-up.

    Args:
        model: Left exactly as it was.
        example_input: The whole batch counts.
        n_runs: Measured runs, at least 2.
    """
    with evaluating(model):
        return Latency.of(_interleaved([model], example_input, n_runs)[0])


def compare(
    first: nn.Module, second: nn.Module, example_input: Inputs, n_runs: int = 20
) -> Comparison:
    """Measure two networks in turn, so that drift of the machine hits both alike.

    Args:
        first: Left exactly as it was.
        second: Left exactly as it was.
        example_input: The whole batch counts.
        n_runs: Measured pairs, at least 2.
    """
    with evaluating(first), evaluating(second):
        times = _interleaved([first, second], example_input, n_runs)
    ratio = median(a / b for a, b in zip(*times, strict=True))
    return Comparison(Latency.of(times[0]), Latency.of(times[1]), ratio)


def _interleaved(
    models: Sequence[nn.Module], example_input: Inputs, n_runs: int
) -> list[list[float]]:
    if n_runs < 2:
        raise ValueError(f"`n_runs` must be at least 2, got {n_runs}.")
    arguments = example_input if isinstance(example_input, tuple) else (example_input,)
    on_cuda = any(isinstance(a, Tensor) and a.is_cuda for a in arguments)
    synchronize: Callable[[], None] = torch.cuda.synchronize if on_cuda else (lambda: None)
    times: list[list[float]] = [[] for _ in models]
    for turn in range(WARM_UP + n_runs):
        for model, own in zip(models, times, strict=True):
            synchronize()
            start = time.perf_counter()
            model(*arguments)
            synchronize()
            if turn >= WARM_UP:
                own.append(time.perf_counter() - start)
    return times
