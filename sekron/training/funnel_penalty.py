"""The funnel penalty, which pulls gates to zero and hardly at those that stay open.

Reference:
    Chu, Lee, Funnel regularization for low-rank compression, arXiv 2112.03690.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sekron.scalars import number


@dataclass(frozen=True, slots=True)
class Funnel:
    """The penalty `λ Σ m |g| / (|g| + c)`, which tends to counting the gates that are open.

    Args:
        schedule: `gate`, where `m` is a gate's first value and `c` a hundredth of it, or `global`,
            where `m` is 1 and `c` falls from 10 to 0.001, evenly in its logarithm.
        strength: λ; default that of the schedule, 0.01 or 0.002.

    Raises:
        ValueError: If the schedule is unknown or the strength not positive.
    """

    schedule: str = "gate"
    strength: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no penalty."""
        if self.schedule not in ("gate", "global"):
            raise ValueError(f"`schedule` must be gate or global, got {self.schedule!r}.")
        if self.strength is None:
            return
        object.__setattr__(self, "strength", number("strength", self.strength))
        if not self.strength > 0:
            raise ValueError(f"`strength` must be positive, got {self.strength}.")

    def penalty(self, gates: list[Tensor], first: list[Tensor], progress: float) -> Tensor:
        """Return the penalty.

        Args:
            gates: Gates of all bonds of all layers.
            first: Their first values.
            progress: Share of the training that is done, 0 to 1.
        """
        sizes, scale = torch.cat(gates).abs(), torch.cat(first)
        if self.schedule == "global":
            c = 10.0 ** (1.0 - 4.0 * progress)
            return torch.sum(sizes / (sizes + c)) * (self.strength or 0.002)
        return torch.sum(scale * sizes / (sizes + 0.01 * scale)) * (self.strength or 0.01)
