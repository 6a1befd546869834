"""Exact choice under one budget: all partial choices that may still lead to the best one.

Branch and bound stalls where many layers have the same shape, because their candidates cost the
same and can be exchanged at no loss. Going through the layers with the set of undominated partial
choices merges all such ties, and the relaxation keeps that set small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.relaxation import TOLERANCE, Floats, Program

WIDTHS = (100, 1_000, 10_000)
"""Partial choices kept at once, from a quick first solution to the proof."""

ROOM = 1.0 + 1e-12
"""A capacity, as a share of itself, and the rounding of a sum of shares."""


@dataclass(frozen=True, slots=True)
class Found:
    """A choice and a lower bound of the loss of all choices.

    Attributes:
        columns: One column per layer; None when none was found.
        bound: No choice has less loss than this.
    """

    columns: NDArray[np.intp] | None
    bound: float


def choose(
    program: Program,
    bound: float,
    reduced: Floats,
    start: NDArray[np.intp] | None,
    widths: tuple[int, ...] = WIDTHS,
) -> Found:
    """Return the best choice, proven unless even the largest width is too small.

    Args:
        program: The candidates; dominance is used when there is one resource.
        bound: Optimum of the relaxation.
        reduced: Reduced cost of every column.
        start: A choice that fits, to be improved; the better it is, the less there is to try.
        widths: Partial choices to keep, tried in turn until the proof is complete.
    """
    best, proven = start, bound
    loss = np.inf if start is None else program.loss(start)
    slack = TOLERANCE * max(program.scale, abs(bound))
    for width in widths:
        columns, dropped = _search(program, reduced, loss - bound + slack, width)
        if columns is not None and (best is None or program.loss(columns) < loss):
            best, loss = columns, program.loss(columns)
        proven = min(bound + dropped, loss)
        if proven >= loss - slack:
            return Found(best, loss)
    return Found(best, proven)


def _search(
    program: Program, reduced: Floats, cutoff: float, width: int
) -> tuple[NDArray[np.intp] | None, float]:
    """Return the best choice whose reduced costs stay within the cutoff.

    A partial choice is dropped when its reduced costs exceed the cutoff, when it cannot be
    completed, when another one is at least as good in loss and cost, and beyond `width`: those of
    greatest reduced cost, the least of which is returned too.
    """
    kept = [
        columns[reduced[columns] <= cutoff]
        for columns in np.split(np.arange(len(reduced)), program.starts[1:])
    ]
    if min(map(len, kept)) == 0:
        return None, np.inf
    order = sorted(range(len(kept)), key=lambda layer: len(kept[layer]))
    least = [program.costs[kept[layer]].min(axis=0) for layer in order]
    to_come = np.cumsum([np.zeros(program.n_resources), *least[:0:-1]], axis=0)[::-1]
    states, dropped = _States.empty(program.n_resources), np.inf
    history: list[_States] = []
    for layer, rest in zip(order, to_come, strict=True):
        grown = states.extended(program, reduced, kept[layer])
        fits = (grown.used + rest <= ROOM).all(axis=1)
        states = grown.at((grown.reduced <= cutoff) & fits).undominated()
        if len(states.reduced) > width:
            by_reduced = np.argsort(states.reduced, kind="stable")
            dropped = min(dropped, float(states.reduced[by_reduced[width]]))
            states = states.at(by_reduced[:width])
        if len(states.reduced) == 0:
            return None, dropped
        history.append(states)
    row = int(np.argmin(states.losses))
    chosen = np.zeros(len(order), dtype=np.intp)
    for layer, states in zip(reversed(order), reversed(history), strict=True):
        chosen[layer] = states.column[row]
        row = int(states.parent[row])
    return chosen, dropped


@dataclass(frozen=True, slots=True)
class _States:
    """Partial choices: sums over the layers done, and how each one came about."""

    reduced: Floats
    losses: Floats
    used: Floats  # (states, resources)
    parent: NDArray[np.intp]  # row of the state that it extends
    column: NDArray[np.intp]  # column that extends it

    @classmethod
    def empty(cls, n_resources: int) -> _States:
        none = np.zeros(1, dtype=np.intp)
        return cls(np.zeros(1), np.zeros(1), np.zeros((1, n_resources)), none, none)

    def extended(self, program: Program, reduced: Floats, columns: NDArray[np.intp]) -> _States:
        parent = np.repeat(np.arange(len(self.reduced)), len(columns))
        column = np.tile(columns, len(self.reduced))
        return _States(
            self.reduced[parent] + reduced[column],
            self.losses[parent] + program.losses[column],
            self.used[parent] + program.costs[column],
            parent,
            column,
        )

    def at(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> _States:
        return _States(
            self.reduced[rows],
            self.losses[rows],
            self.used[rows],
            self.parent[rows],
            self.column[rows],
        )

    def undominated(self) -> _States:
        """Drop states that another beats in loss and cost; with several resources, none."""
        if self.used.shape[1] != 1:
            return self
        by_cost = self.at(np.lexsort((self.losses, self.used[:, 0])))
        before = np.minimum.accumulate(np.append(np.inf, by_cost.losses[:-1]))
        return by_cost.at(by_cost.losses < before)
