"""Rivals of the exact allocation: how others choose across layers, over the same candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options

BISECTIONS = 50

Choice = tuple[int, ...]
Allocator = Callable[[Sequence[Options], Sequence[float]], Choice | None]
"""A rule: from the candidates of each layer, the last one dense, and the limit of every resource to
the index of one candidate per layer; None where the rule finds nothing that fits."""


def exact(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Choose the least sum of what the layers lose, by the integer program."""
    allocation = allocate(layers, capacities)
    return None if allocation is None else allocation.choice


def uniform(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Give every layer the same share of its own cost: of all shares that fit, the best one."""
    if not layers:
        return () if min(capacities, default=0.0) >= 0 else None
    events = sorted(
        (float((cost / layer.costs[-1]).max()), index, row)
        for index, layer in enumerate(layers)
        for row, cost in enumerate(layer.costs)
    )
    # A layer that the method does not know is dense at any share.
    rows = {index: 0 for index, layer in enumerate(layers) if len(layer.costs) == 1}
    best, best_loss = None, np.inf
    for place, (share, index, row) in enumerate(events):
        losses = layers[index].losses
        if index not in rows or losses[row] < losses[rows[index]]:
            rows[index] = row
        is_last = place + 1 == len(events) or events[place + 1][0] > share
        if is_last and len(rows) == len(layers):
            choice = tuple(rows[k] for k in range(len(layers)))
            loss = sum(float(layer.losses[c]) for layer, c in zip(layers, choice, strict=True))
            if loss < best_loss and _fits(layers, choice, capacities):
                best, best_loss = choice, loss
    return best


def minimax(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Give every layer the same bound on what it loses, found by bisection.

    Under one budget the largest loss of a layer is then the least possible. Plainly that is its
    squared relative error, and keeping the same share of energy in every layer, brought to a
    budget, is the same rule; in a metric its sensitivity counts too.

    Reference:
        Liebenwein et al., Compressing neural networks: ALDS, arXiv 2107.11442, section 3.
    """

    def choose(share: float) -> Choice:
        bound = (1.0 - share) * max((float(layer.losses.max()) for layer in layers), default=0.0)
        return tuple(_cheapest(layer, capacities, bound) for layer in layers)

    return _largest(choose, layers, capacities)


def greedy(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Start from the dense network, and take the least error per cost saved until it fits."""
    choice = [len(layer.losses) - 1 for layer in layers]
    while not _fits(layers, choice, capacities):
        best, move = np.inf, None
        for index, layer in enumerate(layers):
            row = choice[index]
            savings = _share(layer.costs[row] - layer.costs, capacities)
            rows = np.flatnonzero(savings > 0)
            if len(rows):
                prices = (layer.losses[rows] - layer.losses[row]) / savings[rows]
                if prices.min() < best:
                    best, move = float(prices.min()), (index, int(rows[np.argmin(prices)]))
        if move is None:
            return None
        choice[move[0]] = move[1]
    return tuple(choice)


def lagrangian(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Put one price on cost, and let every layer take the least loss and price; raise it to fit.

    The price is found by bisection. What a choice leaves of the budget stays unused.

    Reference:
        González Martínez, BALF, arXiv 2509.25136, the budgeted rank allocator.
    """

    def choose(share: float) -> Choice:
        return tuple(
            int(np.argmin(share * layer.losses + (1.0 - share) * _share(layer.costs, capacities)))
            for layer in layers
        )

    return _largest(choose, layers, capacities)


def _largest(
    choose: Callable[[float], Choice], layers: Sequence[Options], capacities: Sequence[float]
) -> Choice | None:
    """Return the choice for the largest share in [0, 1] whose costs fit."""
    if _fits(layers, choose(1.0), capacities):
        return choose(1.0)
    best, low, high = choose(0.0), 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        choice = choose(middle)
        if _fits(layers, choice, capacities):
            best, low = choice, middle
        else:
            high = middle
    return best if _fits(layers, best, capacities) else None


def _cheapest(layer: Options, capacities: Sequence[float], bound: float) -> int:
    rows = np.flatnonzero(layer.losses <= bound)
    return int(rows[np.argmin(_share(layer.costs[rows], capacities))])


def _share(costs: NDArray[np.float64], capacities: Sequence[float]) -> NDArray[np.float64]:
    """Return what costs use of all capacities together."""
    shares: NDArray[np.float64] = (costs / np.maximum(capacities, 1.0)).sum(axis=-1)
    return shares


def _fits(
    layers: Sequence[Options], choice: Sequence[int], capacities: Sequence[float]
) -> np.bool_:
    used = sum(layer.costs[row] for layer, row in zip(layers, choice, strict=True))
    return (np.asarray(used) <= np.asarray(capacities)).all()


ALLOCATIONS: dict[str, Allocator] = {
    "exact": exact,
    "uniform": uniform,
    "minimax": minimax,
    "greedy": greedy,
    "lagrangian": lagrangian,
}
"""The exact allocation and its rivals, by name."""
