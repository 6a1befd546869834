"""How others choose across layers, over the same candidates: rivals of the exact allocation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options

BISECTIONS = 50

Choice = tuple[int, ...]
Allocator = Callable[[Sequence[Options], Sequence[float]], Choice | None]
"""From the candidates of all layers, the last one dense, and what may be used of every resource,
to the index of a candidate per layer; None where the rule finds nothing that fits."""


def exact(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Choose the least sum of squared errors, by the integer program."""
    found = allocate(layers, capacities)
    return None if found is None else found.choice


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
    chosen = {index: 0 for index, layer in enumerate(layers) if len(layer.costs) == 1}
    best, least = None, np.inf
    for place, (share, index, row) in enumerate(events):
        losses = layers[index].losses
        if index not in chosen or losses[row] < losses[chosen[index]]:
            chosen[index] = row
        is_last = place + 1 == len(events) or events[place + 1][0] > share
        if is_last and len(chosen) == len(layers):
            choice = tuple(chosen[k] for k in range(len(layers)))
            loss = sum(float(layer.losses[c]) for layer, c in zip(layers, choice, strict=True))
            if loss < least and _fits(layers, choice, capacities):
                best, least = choice, loss
    return best


def minimax(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """Give every layer the same bound on its relative error, found by bisection.

    Under one budget the largest relative error of a layer is then the least possible. Keeping the
    same share of energy in every layer, brought to a budget, is the same rule.

    Reference:
        Liebenwein et al., Compressing neural networks: ALDS, arXiv 2107.11442, section 3.
    """

    def choose(share: float) -> Choice:
        bound = (1.0 - share) * max((float(layer.losses.max()) for layer in layers), default=0.0)
        return tuple(_cheapest(layer, capacities, bound) for layer in layers)

    return _largest(choose, layers, capacities)


def greedy(layers: Sequence[Options], capacities: Sequence[float]) -> Choice | None:
    """From the dense network, take what adds the least error per cost saved, until it fits."""
    chosen = [len(layer.losses) - 1 for layer in layers]
    while not _fits(layers, chosen, capacities):
        best, move = np.inf, None
        for index, layer in enumerate(layers):
            now = chosen[index]
            saved = _share(layer.costs[now] - layer.costs, capacities)
            cheaper = np.flatnonzero(saved > 0)
            if len(cheaper):
                prices = (layer.losses[cheaper] - layer.losses[now]) / saved[cheaper]
                if prices.min() < best:
                    best, move = float(prices.min()), (index, int(cheaper[np.argmin(prices)]))
        if move is None:
            return None
        chosen[move[0]] = move[1]
    return tuple(chosen)


def _largest(
    choose: Callable[[float], Choice], layers: Sequence[Options], capacities: Sequence[float]
) -> Choice | None:
    """Return the choice for the largest share in [0, 1] whose costs fit."""
    if _fits(layers, choose(1.0), capacities):
        return choose(1.0)
    best, low, high = choose(0.0), 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        found = choose(middle)
        if _fits(layers, found, capacities):
            best, low = found, middle
        else:
            high = middle
    return best if _fits(layers, best, capacities) else None


def _cheapest(layer: Options, capacities: Sequence[float], bound: float) -> int:
    fine = np.flatnonzero(layer.losses <= bound)
    return int(fine[np.argmin(_share(layer.costs[fine], capacities))])


def _share(costs: NDArray[np.float64], capacities: Sequence[float]) -> NDArray[np.float64]:
    """Return what costs use of all capacities together."""
    shares: NDArray[np.float64] = (costs / np.maximum(capacities, 1.0)).sum(axis=-1)
    return shares


def _fits(
    layers: Sequence[Options], chosen: Sequence[int], capacities: Sequence[float]
) -> np.bool_:
    used = sum(layer.costs[choice] for layer, choice in zip(layers, chosen, strict=True))
    return (np.asarray(used) <= np.asarray(capacities)).all()


ALLOCATIONS: dict[str, Allocator] = {
    "exact": exact,
    "uniform": uniform,
    "minimax": minimax,
    "greedy": greedy,
}
"""The exact allocation and its rivals, by name."""
