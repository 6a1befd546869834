"""What another choice beats in loss and in every cost, and no best choice needs."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

N_LEVELS = 64
"""Most levels of the second and later resources at which choices are compared."""

N_BINS = 4096
"""Bins of the only resource's costs."""


def undominated(losses: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows that are left when those are dropped that another one beats.

    With one resource all of them are dropped. With more, most are: a row is compared with the best
    one below some levels of the second and later resources.

    Args:
        losses: Shape `(rows,)`.
        costs: Shape `(rows, resources)`, at least one resource.

    Returns:
        The rows that are kept, by their first cost.
    """
    rows = _roughly(losses, costs[:, 0]) if costs.shape[1] == 1 else np.arange(len(losses))
    order = rows[np.lexsort((losses[rows], costs[rows, 0]))]
    losses, others = losses[order], costs[order, 1:]
    beaten = np.zeros(len(order), dtype=bool)
    steps = int(N_LEVELS ** (1 / max(others.shape[1], 1)))
    levels = others[:0]  # (steps, resources − 1)
    if others.size:
        levels = np.quantile(others, np.linspace(0, 1, steps), axis=0)
    for level in product(*levels.T):
        below = np.where((others <= level).all(axis=1), losses, np.inf)
        best_before = np.minimum.accumulate(np.append(np.inf, below[:-1]))
        beaten |= (others >= level).all(axis=1) & (best_before <= losses)
    return order[~beaten]


def _roughly(losses: NDArray[np.float64], costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the rows, in their order, that none of clearly less cost beats: few are to be sorted.

    Rows fall into bins of equal width by their costs; a row is compared with those of lower bins.
    """
    low, high = costs.min(initial=np.inf), costs.max(initial=-np.inf)
    if not low < high:
        return np.arange(len(losses))
    bins = ((costs - low) * (N_BINS / (high - low))).astype(np.intp)
    best = np.full(N_BINS + 1, np.inf)
    np.minimum.at(best, bins, losses)
    best_before = np.minimum.accumulate(np.append(np.inf, best[:-1]))
    return np.flatnonzero(losses < best_before[bins])
