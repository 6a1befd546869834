"""Fronts: the points of a cloud of (error, FLOPs, parameters) that are worth keeping."""

import numpy as np
from numpy.typing import NDArray

MIXES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of FLOPs in a mixed cost, the rest being parameters; 0 and 1 are the pure costs."""


def front(costs: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the indices of the points that no other beats in both, cheapest first."""
    by_cost = np.lexsort((errors, costs))
    best_before = np.minimum.accumulate(np.concatenate(([np.inf], errors[by_cost][:-1])))
    return by_cost[errors[by_cost] < best_before]


def mixed_front(
    flops: NDArray[np.float64], params: NDArray[np.float64], errors: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return the indices of the points on the front of any of `MIXES`, ascending.

    Args:
        flops: Relative to the dense layer.
        params: Relative to the dense layer.
        errors: Relative errors.
    """
    fronts = [front(mix * flops + (1.0 - mix) * params, errors) for mix in MIXES]
    return np.unique(np.concatenate(fronts))


def hypervolume(costs: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """Return the share of the unit square that the points dominate (both axes: lower is better)."""
    rows = front(costs, errors)
    x = np.clip(costs[rows], 0.0, 1.0)
    y = np.clip(errors[rows], 0.0, 1.0)
    return float(np.sum(np.diff(np.append(x, 1.0)) * (1.0 - y)))
