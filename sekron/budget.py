"""What a compressed network may cost."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, replace

from sekron.scalars import as_python, shown

RESOURCES = ("flops", "params")
"""Resources that need no clock: fields of `Budget` and, in this order, columns of costs."""

CLOCKED = ("latency", "latency_ms", "speedup")
"""Fields of `Budget` that limit the measured latency."""


class InfeasibleBudget(ValueError):
    """No plan fits the budget; the message names the least possible cost and the reason for it."""


def must_be_budget(budget: object) -> None:
    """Refuse what is given in a budget's place.

    Raises:
        TypeError: With what to write for a number.
    """
    if not isinstance(budget, Budget):
        raise TypeError(
            f"`budget` must be a Budget, such as Budget(flops=0.5), got {shown(budget)}."
        )


MOST = 2**62
"""Multiply-adds or parameters that a network could have."""

ROUNDED = 1.0 + 2.0**-51
"""What a share that was divided may be rounded down by, once it is multiplied again."""

QUOTED = 30
"""Digits of a number that an error quotes."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits for the whole network; what is None is not limited.

    Args:
        flops: Multiply-adds for one image: a float in (0, 1] is a share of the dense network, an
            int is an absolute number.
        params: Parameters, in the same way.
        latency: Time of a forward pass as a share of the dense network's, in (0, 1].
        latency_ms: Time of a forward pass in milliseconds, the example input's whole batch.
        speedup: How many times faster than the dense network, at least 1.
        min_score: Lower limit of what the search's `score` returns for the network; with it the
            plan with the fewest FLOPs is wanted, not the one with the least error.

    Raises:
        ValueError: If a share is outside (0, 1], as any float above 1 is, or a number is not
            positive or not finite.
        TypeError: If a limit is no number.

    Example:
        >>> Budget(flops=0.5).limit("flops", dense=1000)
        500
    """

    flops: float | int | None = None
    params: float | int | None = None
    latency: float | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        for name in (*RESOURCES, *CLOCKED, "min_score"):
            value = as_python(getattr(self, name))
            if value is None:
                continue
            object.__setattr__(self, name, value)
            if isinstance(value, bool) or not isinstance(value, float | int):
                raise TypeError(
                    f"`{name}` must be a float (share of dense) or an int (absolute), "
                    f"got {shown(value)}."
                    if name in RESOURCES
                    else f"`{name}` must be a number, got {shown(value)}."
                )
            if name in RESOURCES:
                _check_static(name, value)
            else:  # 8 ms are 8.0 ms
                object.__setattr__(self, name, _as_float(name, value))
        if self.latency is not None and not 0.0 < self.latency <= 1.0:
            raise ValueError(f"`latency` as a share must be in (0, 1], got {self.latency}.")
        if self.latency_ms is not None and not 0.0 < self.latency_ms < float("inf"):
            raise ValueError(f"`latency_ms` must be positive, got {self.latency_ms}.")
        if self.speedup is not None and not 1.0 <= self.speedup < float("inf"):
            raise ValueError(f"`speedup` must be at least 1, got {self.speedup}.")
        if self.min_score is not None and not math.isfinite(self.min_score):
            raise ValueError(f"`min_score` must be finite, got {self.min_score}.")

    def limit(self, resource: str, dense: int) -> int | None:
        """Return the absolute limit of a resource, given what the dense network uses of it."""
        value: float | int | None = getattr(self, resource)
        return int(value * dense * ROUNDED) if isinstance(value, float) else value

    @property
    def digest(self) -> str:
        """Digest of the limits, which tells the budget from all others, however it is worded."""
        limits = {name: value for name, value in asdict(self).items() if value is not None}
        return hashlib.sha256(json.dumps(limits, sort_keys=True).encode()).hexdigest()

    @property
    def limits(self) -> Budget:
        """The same budget without its `min_score`."""
        return replace(self, min_score=None)

    @property
    def is_clocked(self) -> bool:
        """Whether latency is limited."""
        return any(getattr(self, name) is not None for name in CLOCKED)

    @property
    def is_static(self) -> bool:
        """Whether nothing but FLOPs and parameters is limited."""
        return not self.is_clocked and self.min_score is None

    def limit_ms(self, dense_ms: float) -> float | None:
        """Return the limit of the latency in milliseconds, given that of the dense network."""
        limits = []
        if self.latency is not None:
            limits.append(self.latency * dense_ms)
        if self.latency_ms is not None:
            limits.append(float(self.latency_ms))
        if self.speedup is not None:
            limits.append(dense_ms / self.speedup)
        return min(limits, default=None)

    def __str__(self) -> str:
        limits = []
        for name in RESOURCES:
            value = getattr(self, name)
            if value is not None:
                text = _percent(value) if isinstance(value, float) else f"{value:,}"
                limits.append(f"{name} ≤ {text}")
        if self.latency is not None:
            limits.append(f"latency ≤ {_percent(self.latency)}")
        if self.latency_ms is not None:
            limits.append(f"latency ≤ {self.latency_ms:g} ms")
        if self.speedup is not None:
            limits.append(f"speedup ≥ {self.speedup:g}")
        if self.min_score is not None:
            limits.append(f"score ≥ {self.min_score:g}")
        return ", ".join(limits) or "no limit"


def _as_float(name: str, value: float | int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"`{name}` must be finite, got {shown(value)[:QUOTED]}….") from None


def _percent(share: float) -> str:
    """Return a share in percent with one decimal, or with as many as it needs."""
    text = f"{share:.1%}"
    return text if abs(float(text[:-1]) - 100 * share) < 1e-9 else f"{100 * share:.12g}%"


def _check_static(name: str, value: float | int) -> None:
    if isinstance(value, float) and not 0.0 < value <= 1.0:
        raise ValueError(
            f"`{name}` as a share must be in (0, 1], got {value}; an absolute number is an int."
        )
    if isinstance(value, int) and value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {shown(value)[:QUOTED]}.")
    if isinstance(value, int) and value > MOST:
        raise ValueError(f"`{name}` must be at most {MOST}, got {shown(value)[:QUOTED]}….")
