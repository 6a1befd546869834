"""What a compressed network may cost."""

from __future__ import annotations

from dataclasses import dataclass

RESOURCES = ("flops", "params")
"""What a budget can limit; the fields of `Budget` and the columns of costs, in this order."""


class InfeasibleBudget(ValueError):
    """No plan fits the budget; the message says what the least is and what holds it up."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Upper limits for the whole network; what is None is not limited.

    Args:
        flops: Multiply-adds for one image: a float in (0, 1] is a share of the dense network, an
            int is an absolute number.
        params: Parameters, in the same way.

    Raises:
        ValueError: If a share is outside (0, 1] or a number is not positive.
        TypeError: If a limit is neither a float nor an int.

    Example:
        >>> Budget(flops=0.5).limit("flops", dense=1000)
        500
    """

    flops: float | int | None = None
    params: float | int | None = None

    def __post_init__(self) -> None:
        for name in RESOURCES:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, float | int):
                raise TypeError(
                    f"`{name}` must be a float (share of dense) or an int (absolute), "
                    f"got {value!r}."
                )
            if isinstance(value, float) and not 0.0 < value <= 1.0:
                raise ValueError(
                    f"`{name}` as a share must be in (0, 1], got {value}; "
                    "an absolute number is an int."
                )
            if isinstance(value, int) and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")

    def limit(self, resource: str, dense: int) -> int | None:
        """Return the absolute limit of a resource, given what the dense network uses of it."""
        value: float | int | None = getattr(self, resource)
        return int(value * dense) if isinstance(value, float) else value

    def __str__(self) -> str:
        limits = []
        for name in RESOURCES:
            value = getattr(self, name)
            if value is not None:
                limits.append(
                    f"{name} ≤ {value:.1%}" if isinstance(value, float) else f"{name} ≤ {value:,}"
                )
        return ", ".join(limits) or "no limit"
