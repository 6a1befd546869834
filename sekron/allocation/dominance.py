"""What another choice beats in loss and in every cost, and no best choice needs."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

N_LEVELS = 64
"""Most levels of the second and later resources at which choices are compared."""


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
    order = np.lexsort((losses, costs[:, 0]))
    losses, others = losses[order], costs[order, 1:]
    beaten = np.zeros(len(order), dtype=bool)
    steps = int(N_LEVELS ** (1 / max(others.shape[1], 1)))
    levels = np.quantile(others, np.linspace(0, 1, steps), axis=0)  # (steps, resources − 1)
    for level in product(*levels.T):
        below = np.where((others <= level).all(axis=1), losses, np.inf)
        best_before = np.minimum.accumulate(np.append(np.inf, below[:-1]))
        beaten |= (others >= level).all(axis=1) & (best_before <= losses)
    return order[~beaten]
