"""What the clock says of a layer, of a structure and of a network, and where it said it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from search.clock.race import EAGER
from sekron.layers.operations import Form

Interval = tuple[float, float, float]
"""A median between the ends of its 95 % confidence interval."""

Ranks = tuple[int, ...]
"""Of a structure."""

WIDE = 0.1
"""Width of a 95 % interval, relative to the median, from which a time decides nothing."""


def is_wide(low: Any, middle: Any, high: Any) -> Any:
    """Return whether an interval is too wide for a time to decide anything; of arrays an array.

    One that is not known, as in records of older releases, is not.
    """
    return high - low > WIDE * middle


def agreed(first: Interval, second: Interval) -> Interval:
    """Return what two measurements of the same say: the tighter one where their intervals meet.

    Where they exclude each other, it is the slower one, in an interval that holds both.
    """
    if first[0] <= second[2] and second[0] <= first[2]:
        return min(first, second, key=lambda interval: interval[2] - interval[0])
    return min(first[0], second[0]), max(first[1], second[1]), max(first[2], second[2])


@dataclass(frozen=True, slots=True)
class Effort:
    """What the best plan was looked for with.

    Attributes:
        seconds: Limit of all measuring; infinite where it left nothing out.
        trials: Of whole networks.
    """

    seconds: float
    trials: int

    def covers(self, other: Effort) -> bool:
        """Whether nothing better is to be expected of the other one."""
        return self.seconds >= other.seconds and self.trials >= other.trials


@dataclass(frozen=True, slots=True)
class Setting:
    """What a latency depends on besides the network; latencies of two settings never mix.

    Attributes:
        device: Names of all GPUs that weights or inputs are on, else of the processor; then the
            types of other accelerators.
        threads: Of torch.
        torch: Version.
        dtype: Of the weights, and where autocast is on, to what.
        layout: Of the example input: `contiguous`, `channels_last`, or its strides.
        input_shapes: Of the example input, the batch included.
        runtime: That ran everything.
        runtime_version: Of the runtime; nothing where that is torch's.
    """

    device: str
    threads: int
    torch: str
    dtype: str
    layout: str
    input_shapes: tuple[tuple[int, ...], ...]
    runtime: str = EAGER
    runtime_version: str = ""

    def difference(self, here: Setting) -> str:
        """Return the first field that differs, with both values; nothing if none does."""
        for name, value in asdict(self).items():
            if value != getattr(here, name):
                return f"{name} {value} there, {getattr(here, name)} here"
        return ""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The dense layer inside its network.

    Attributes:
        key: The module and its inputs; layers of equal key take equally long.
        dense_ms: Milliseconds of all its calls.
        low_ms: Lower end of their 95 % confidence interval, NaN where it is not known.
        high_ms: Upper end.
    """

    key: str
    dense_ms: float
    low_ms: float = math.nan
    high_ms: float = math.nan


@dataclass(frozen=True, slots=True)
class TimedPoint:
    """One structure at some ranks on the clock.

    Attributes:
        form: How it ran: the fastest of its forms.
        ratios: Ranks -> its time over the dense layer's, timed in turn; infinite where the runtime
            does not take it.
        ends: Ranks -> the ends of the ratio's 95 % confidence interval, where they are known.
        passing: Those ranks whose ratio is infinite since memory was too full.
    """

    form: Form
    ratios: Mapping[Ranks, float] = field(default_factory=dict)
    ends: Mapping[Ranks, tuple[float, float]] = field(default_factory=dict)
    passing: frozenset[Ranks] = frozenset()

    def with_time(self, ranks: Ranks, ratio: Interval, *, is_passing: bool = False) -> TimedPoint:
        """Return the same with the time at one more choice of ranks.

        Args:
            ranks: The choice.
            ratio: Its time.
            is_passing: Whether memory was too full, if the ratio is infinite.
        """
        low, middle, high = ratio
        ratios = {**self.ratios, ranks: middle}
        if math.isfinite(middle):
            return replace(self, ratios=ratios, ends={**self.ends, ranks: (low, high)})
        passing = self.passing | {ranks} if is_passing else self.passing
        return replace(self, ratios=ratios, passing=passing)

    @property
    def lasting(self) -> TimedPoint:
        """The same without what memory was too full for."""
        ratios = {ranks: r for ranks, r in self.ratios.items() if ranks not in self.passing}
        return replace(self, ratios=ratios, passing=frozenset())

    def decided(self, ranks: Ranks) -> float:
        """Return the ratio, or where it is not sure, the fast end of its interval."""
        low, high = self.ends.get(ranks, (math.nan, math.nan))
        ratio = self.ratios[ranks]
        return low if is_wide(low, ratio, high) else ratio

    @property
    def runs(self) -> bool:
        """Whether the runtime takes it at any of the ranks."""
        return any(map(math.isfinite, self.ratios.values()))


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """One compressed network on the clock, in turn with the dense one.

    Attributes:
        ratio: Its time over the dense network's; infinite where it does not run.
        saved: Share of the dense network's time that its layers, timed alone, save; NaN where
            some were not timed.
        activations: Its peak activation memory over the dense network's; NaN where it does not run,
            or memory was too full to measure it.
        n_layers: Layers that are replaced in it.
        low: Lower end of the ratio's 95 % confidence interval, NaN where it is not known.
        high: Upper end.
        is_confirmed: Whether a second race, independent of the first, has a say in it.
        is_passing: Whether the ratio is infinite for now alone, as where memory was too full.
    """

    ratio: float
    saved: float
    activations: float
    n_layers: int
    low: float = math.nan
    high: float = math.nan
    is_confirmed: bool = False
    is_passing: bool = False

    @property
    def runs(self) -> bool:
        """Whether it ran."""
        return math.isfinite(self.ratio)

    @property
    def is_sure(self) -> bool:
        """Whether the interval is tight enough for the time to decide anything."""
        return not is_wide(self.low, self.ratio, self.high)

    @property
    def speedup(self) -> float:
        """Time of the dense network over its own; NaN where that is not sure, or it does not run.

        So that nobody takes a wide interval for a number.
        """
        return 1.0 / self.ratio if self.runs and self.is_sure else math.nan
