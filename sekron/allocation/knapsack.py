"""Exact choice under budgets: all partial choices that may still lead to the best one.

Branch and bound stalls where many layers have the same shape, because their candidates cost the
same and can be exchanged at no loss. Going through the layers with the set of undominated partial
choices merges all such ties. A partial choice is dropped as soon as its loss, plus the least that
the layers to come must add, exceeds the loss of the incumbent.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.dominance import undominated
from sekron.allocation.first_choice import Choice, exchanged
from sekron.allocation.relaxation import ROUNDING, Floats, Program, Relaxed

WIDTHS = (100, 1_000, 10_000)
"""Numbers of partial choices kept at once, from a quick attempt to the proof.

The largest is for one resource: with several, too few partial choices dominate each other."""

N_PRICES = 64
"""Most price vectors at which the layers to come are bounded."""


@dataclass(frozen=True, slots=True)
class Incumbent:
    """The best choice so far, and a lower bound of the loss of all choices.

    Attributes:
        columns: One column per layer; None while there is no choice.
        bound: No choice has less loss than this; infinite when there is none.
    """

    columns: Choice | None
    bound: float


def choose(program: Program, relaxed: Relaxed, known: Choice | None) -> Incumbent:
    """Return the best choice, proven unless even the largest width is too small.

    Args:
        program: The candidates to choose from.
        relaxed: Relaxation of the program.
        known: A choice that fits, or None.
    """
    best, loss = known, np.inf
    if known is not None:
        best = exchanged(program, relaxed, known)
        loss = program.loss(best)
    bound = relaxed.optimum
    for width in WIDTHS if program.n_resources == 1 else WIDTHS[:-1]:
        columns, floor = _search(program, relaxed, loss + program.tolerance, width)
        if columns is not None and program.loss(columns) < loss:
            best, loss = columns, program.loss(columns)
        bound = min(max(bound, floor), loss)
        if bound >= loss - program.tolerance:
            return Incumbent(best, loss)
        if columns is not None:
            best = exchanged(program, relaxed, columns)
            loss = program.loss(best)
    return Incumbent(best, bound)


def _search(
    program: Program, relaxed: Relaxed, cutoff: float, width: int
) -> tuple[Choice | None, float]:
    """Return the best choice with a loss up to the cutoff, and a floor.

    Of more than `width` partial choices, those that promise least are dropped. The floor is the
    least loss that any of the dropped ones could have led to.
    """
    distance = cutoff - relaxed.optimum
    columns = np.argsort(relaxed.reduced, kind="stable")
    columns = columns[: np.searchsorted(relaxed.reduced[columns], distance, side="right")]
    layers = [columns[program.owner[columns] == layer] for layer in range(len(program.starts))]
    if min(map(len, layers)) == 0:
        return None, np.inf
    order = sorted(range(len(layers)), key=lambda layer: len(layers[layer]))
    lookaheads = _Lookahead.after(program, relaxed, [layers[layer] for layer in order])
    states, floor = _States.empty(program.n_resources), np.inf
    history: list[_States] = []
    for layer, lookahead in zip(order, lookaheads, strict=True):
        states = states.extended(program, relaxed, layers[layer], distance).undominated()
        bounds = lookahead.bounds(states)
        promising = np.isfinite(bounds) & (bounds <= cutoff)
        states, bounds = states.at(promising), bounds[promising]
        if len(bounds) > width:
            by_bound = np.argpartition(bounds, width)
            floor = min(floor, float(bounds[by_bound[width]]))
            states = states.at(by_bound[:width])
        if len(states.losses) == 0:
            return None, floor
        history.append(states)
    row = int(np.argmin(states.losses))
    choice = np.zeros(len(order), dtype=np.intp)
    for layer, states in zip(reversed(order), reversed(history), strict=True):
        choice[layer] = states.column[row]
        row = int(states.parent[row])
    return choice, floor


@dataclass(frozen=True, slots=True)
class _Lookahead:
    """What the layers to come must add at least, seen from one layer.

    Attributes:
        costs: Least cost of every resource, shape `(resources,)`.
        prices: Price vectors, shape `(prices, resources)`.
        values: Least `loss + cost · price` at each price vector, shape `(prices,)`.
    """

    costs: Floats
    prices: Floats
    values: Floats

    @classmethod
    def after(cls, program: Program, relaxed: Relaxed, layers: list[Choice]) -> list[_Lookahead]:
        """Look ahead from every layer, each with the columns that may be chosen, in this order.

        Any prices `p` with values `v` give a lower bound of the loss to come, `v − room · p`, where
        `room` is what is left to spend. Which prices give the best bound depends on the room, so
        several around those of the relaxation are tried.
        """
        steps = int(N_PRICES ** (1 / program.n_resources))
        factors = np.append(0.0, np.geomspace(1 / 16, 16, steps - 1))
        prices = relaxed.prices * np.array(list(product(factors, repeat=program.n_resources)))
        columns, sizes = np.concatenate(layers), [len(layer) for layer in layers]
        starts = np.cumsum([0, *sizes[:-1]])
        costs = program.costs[columns]
        priced = program.losses[columns, None] + costs @ prices.T  # (columns, prices)
        values = np.minimum.reduceat(priced, starts)  # (layers, prices)
        costs = np.minimum.reduceat(costs, starts)  # (layers, resources)
        # Sums over the layers after each one.
        values = np.cumsum(values[::-1], axis=0)[::-1] - values
        costs = np.cumsum(costs[::-1], axis=0)[::-1] - costs
        return [cls(a, prices, b) for a, b in zip(costs, values, strict=True)]

    def bounds(self, states: _States) -> Floats:
        """Return the least loss that each partial choice can lead to, infinite where none fits."""
        room = 1.0 - states.used
        bounds = np.where((room >= self.costs - ROUNDING).all(axis=1), states.losses, np.inf)
        losses = np.zeros(len(bounds))
        for price, value in zip(self.prices, self.values, strict=True):
            np.maximum(losses, value - room @ price, out=losses)
        return bounds + losses


@dataclass(frozen=True, slots=True)
class _States:
    """Partial choices: sums over the layers passed so far, and how each choice came about."""

    reduced: Floats
    losses: Floats
    used: Floats  # (states, resources)
    parent: NDArray[np.intp]  # row of the state that it extends
    column: NDArray[np.intp]  # column that extends it

    @classmethod
    def empty(cls, n_resources: int) -> _States:
        zero = np.zeros(1, dtype=np.intp)
        return cls(np.zeros(1), np.zeros(1), np.zeros((1, n_resources)), zero, zero)

    def extended(
        self, program: Program, relaxed: Relaxed, columns: Choice, distance: float
    ) -> _States:
        """Extend every state by a layer's columns, as long as its reduced cost stays in reach.

        The columns ascend by reduced cost.
        """
        reach = distance - self.reduced
        counts = np.searchsorted(relaxed.reduced[columns], reach, side="right")
        parent = np.repeat(np.arange(len(counts)), counts)
        first = np.repeat(np.cumsum(counts) - counts, counts)
        column = columns[np.arange(len(parent)) - first]
        return _States(
            self.reduced[parent] + relaxed.reduced[column],
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
        """Drop states that another one beats in loss and in every cost, or most of them."""
        return self.at(undominated(self.losses, self.used))
