"""The clock: how long a forward pass takes, and which of several is faster."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from scipy.stats import binom
from torch import nn

from search.clock.alone import alone
from search.clock.glibc import kept_memory
from sekron.export.runtimes import make_ready
from sekron.forward.evaluation import untouched
from sekron.forward.inputs import Inputs, example_of
from sekron.forward.tensors import tensors_in
from sekron.scalars import number

Result = TypeVar("Result")

EAGER = "torch"
"""The runtime that runs networks as they are, layer by layer."""

PRECISION = 0.02
"""Half width of the interval at which a measurement ends, relative to the median."""

MAX_SECONDS = 5.0
"""After which a measurement ends anyway."""

LOOK_AGAIN = 1.25
"""Growth of the number of rounds from one look at the interval to the next."""

WARM_UP = 3
FEWEST = 7
"""Rounds before and at which the first interval is made; no race has fewer than both."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Time of one forward pass, the whole batch.

    Attributes:
        median_ms: Milliseconds, the median of the runs.
        low_ms: Lower end of the median's 95 % confidence interval.
        high_ms: Upper end.
        n_runs: Measured runs.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    n_runs: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two networks timed in turn.

    Attributes:
        first: Time of the first.
        second: Time of the second.
        ratio: Median over the rounds of first / second; above 1 the second is faster.
        low: Lower end of the ratio's 95 % confidence interval.
        high: Upper end.
    """

    first: Latency
    second: Latency
    ratio: float
    low: float
    high: float


def latency(
    model: nn.Module,
    example_input: Inputs,
    *,
    precision: float = PRECISION,
    max_seconds: float = MAX_SECONDS,
    runtime: str = EAGER,
) -> Latency:
    """Measure the forward pass in evaluation, without gradients, after a warm-up.

    Runs are added until the interval is tight or the time is up. One measurement at a time runs
    on a machine; others wait. Threads are those that torch is set to. Within the caller's autocast
    weights are cast in each run.

    Args:
        model: Left exactly as it was.
        example_input: Where and as it shall run; the whole batch counts.
        precision: Half width of the median's 95 % confidence interval, relative to the median.
        max_seconds: Limit of the measuring, at least 7 runs apart.
        runtime: That runs it, one of `sekron.export.runtimes.RUNTIMES`: torch, torch.compile,
            onnxruntime, onnxruntime-int8, onnxruntime-cuda, onnxruntime-tensorrt, openvino or
            openvino-int8.

    Raises:
        ValueError: If `precision` or `max_seconds` is not positive, there is no such runtime, or it
            does not take the network.
        ImportError: If the runtime is not installed.
    """
    with untouched(model):
        times = race([forward(model, example_input, runtime)], precision, max_seconds)
    return _summary(times[0])


def compare(
    first: nn.Module,
    second: nn.Module,
    example_input: Inputs,
    *,
    precision: float = PRECISION,
    max_seconds: float = MAX_SECONDS,
    runtime: str = EAGER,
) -> Comparison:
    """Measure two networks in turn, so that drift of the machine hits both alike.

    Args:
        first: Left exactly as it was.
        second: Left exactly as it was.
        example_input: Where and as they shall run; the whole batch counts.
        precision: Half width of the ratio's 95 % confidence interval, relative to the ratio.
        max_seconds: Limit of the measuring, at least 7 rounds apart.
        runtime: That runs both, as for `latency`.

    Raises:
        ValueError: As `latency` does.
        ImportError: If the runtime is not installed.
    """
    runs = [forward(network, example_input, runtime) for network in (first, second)]
    with untouched(first, second):
        times = race(runs, precision, max_seconds)
    low, ratio, high = interval(times[0] / times[1])
    return Comparison(_summary(times[0]), _summary(times[1]), ratio, low, high)


def race(
    runs: Sequence[Callable[[], object]],
    precision: float = PRECISION,
    max_seconds: float = MAX_SECONDS,
    before: Callable[[], object] = lambda: None,
    attended: Callable[[float], AbstractContextManager[object]] = nullcontext,
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Time functions in turn, round by round, until their ratios to the first are known.

    Args:
        runs: What is timed; with one only, its own time decides when to stop.
        precision: Relative half width of the 95 % confidence interval of each median ratio.
        max_seconds: After which to stop anyway, but not before the fewest rounds.
        before: Called before each of them, outside of the time.
        attended: From the seconds that it waited for others to end theirs to what it runs within.

    Returns:
        Seconds, shape `(runs, rounds)`.

    Raises:
        ValueError: If `precision` or `max_seconds` is not positive.
    """
    precision = number("precision", precision)
    max_seconds = number("max_seconds", max_seconds)
    if not (precision > 0 and max_seconds > 0):
        raise ValueError(
            f"`precision` and `max_seconds` must be positive, got {precision} and {max_seconds}."
        )
    rounds: list[list[float]] = []
    look = FEWEST
    with alone() as queued, attended(queued), kept_memory():
        for _ in range(WARM_UP):
            _once(runs, before)
        end = time.perf_counter() + max_seconds
        while True:
            rounds.append(_once(runs, before))
            late = time.perf_counter() > end
            if len(rounds) >= look or (late and len(rounds) >= FEWEST):
                # Seldom: looking costs time, and often enough it finds a lucky moment.
                look = math.ceil(LOOK_AGAIN * len(rounds))
                times = np.array(rounds).T
                if late or _is_tight(times, precision):
                    return times


def interval(samples: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> tuple[float, ...]:
    """Return a median between the ends of its 95 % confidence interval, from order statistics.

    Nothing is assumed about the distribution, except that the samples are independent.

    Args:
        samples: At least six; fewer say nothing with that confidence.

    Reference:
        Conover, Practical Nonparametric Statistics, 3rd ed., 1999, section 3.2.
    """
    low, high = _places(len(samples))
    ends = np.pad(np.sort(samples).astype(float), 1, constant_values=np.nan)
    return float(ends[low]), float(np.median(samples)), float(ends[high])


@cache
def _places(n: int) -> tuple[int, int]:
    """Return which of so many samples, counted from 1, are the ends of the interval.

    SciPy's `quantile_test` gives the same, but would take milliseconds of every look.
    """
    rest = (1 - 0.95) / 2
    return int(binom.ppf(rest, n, 0.5)), int(binom.isf(rest, n, 0.5)) + 1


def _is_tight(times: np.ndarray[tuple[int, int], np.dtype[np.float64]], precision: float) -> bool:
    ratios = times[1:] / times[0] if len(times) > 1 else times
    intervals = [interval(row) for row in ratios]
    return all(high - low <= 2 * precision * middle for low, middle, high in intervals)


def _once(runs: Sequence[Callable[[], object]], before: Callable[[], object]) -> list[float]:
    seconds = []
    for run in runs:
        before()
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def forward(model: nn.Module, example_input: Inputs, runtime: str) -> Callable[[], object]:
    """Return a forward pass to be timed, made ready in its runtime.

    Args:
        model: In torch itself it is run as it is, in the mode that it is in then.
        example_input: What it runs on.
        runtime: One of `RUNTIMES`.

    Raises:
        ValueError: If there is no such runtime, or it does not take the network.
        ImportError: If the runtime is not installed.
    """
    arguments = example_of(example_input, model)
    if runtime == EAGER:
        return synchronized(lambda: arguments.run(model), arguments, model)
    ready = make_ready(runtime, model, arguments)
    return synchronized(lambda: ready.run(arguments), arguments, model)


def synchronized(
    function: Callable[[], Result], arguments: object, *networks: nn.Module
) -> Callable[[], Result]:
    """Return a function that ends when the work on the devices has.

    Args:
        function: That gives devices work.
        arguments: What it works on, and where.
        networks: That it runs, which may move the arguments to their own devices.
    """
    own = [tensor for net in networks for tensor in (*net.parameters(), *net.buffers())]
    devices = {tensor.device for tensor in (*tensors_in(arguments), *own)}
    awaited = [device for device in devices if device.type not in ("cpu", "meta")]
    if not awaited:
        return function

    def run() -> Result:
        result = function()
        for device in awaited:
            torch.accelerator.synchronize(device)
        return result

    return run


def processor_name() -> str:
    """Return the model of the processor, as far as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _summary(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Latency:
    low, middle, high = interval(1e3 * seconds)
    return Latency(middle, low, high, len(seconds))
