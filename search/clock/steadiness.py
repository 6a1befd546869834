"""Whether a machine is steady: how far apart the rounds of one and the same network are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNSTEADY = 0.5
"""Spread of the dense network's rounds from which times are doubted."""

TAIL = 10.0
"""Percent of the rounds, on either side, that may be stray."""


class Steadiness:
    """Collects how long the dense network takes, in every race and round of a search."""

    def __init__(self) -> None:
        self._seconds: list[float] = []

    def add(self, seconds: NDArray[np.float64]) -> None:
        """Add the rounds of a race."""
        self._seconds.extend(seconds.tolist())

    @property
    def spread(self) -> float:
        """Width of the range of all rounds but the stray ones, over their median; 0 without any.

        It is wide where a machine drifts from race to race, and where it does from round to round.
        """
        if not self._seconds:
            return 0.0
        low, middle, high = np.percentile(self._seconds, [TAIL, 50.0, 100.0 - TAIL])
        return float((high - low) / middle)

    @property
    def median_ms(self) -> float:
        """Median of all rounds, 0 without any."""
        return 1e3 * float(np.median(self._seconds)) if self._seconds else 0.0
