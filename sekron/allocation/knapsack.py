"""Exact choice under budgets: all partial choices that may still lead to the best one.

Branch and bound stalls where many layers have the same shape, because their candidates cost the
same and can be exchanged at no loss. Going through the layers with the set of undominated partial
choices merges all such ties. A partial choice is dropped as soon as its loss, and the least that
the layers to come must add, exceed what is known to be possible.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.relaxation import ROUNDING, Floats, Program, Relaxed
from sekron.allocation.start import Choice, exchanged

WIDTHS = (100, 1_000, 10_000)
"""Partial choices kept at once, from a quick attempt to the proof.

The widest is for one resource: with several too few partial choices dominate each other."""

N_PRICES = 64
"""Price vectors at which the layers to come are bounded, at most."""

N_LEVELS = 64
"""Levels of the second and later resources at which partial choices are compared, at most."""


@dataclass(frozen=True, slots=True)
class Found:
    """A choice and a lower bound of the loss of all choices.

    Attributes:
        columns: One column per layer; None when none was found.
        bound: No choice has less loss than this; infinite when there is none.
    """

    columns: Choice | None
    bound: float


def choose(program: Program, relaxed: Relaxed, known: Choice | None) -> Found:
    """Return the best choice, proven unless even the largest width is too small.

    Args:
        program: What to choose from.
        relaxed: Its relaxation.
        known: A choice that fits, if there is one.
    """
    best, loss = known, np.inf
    if known is not None:
        best = exchanged(program, relaxed, known)
        loss = program.loss(best)
    proven = relaxed.optimum
    for width in WIDTHS if program.n_resources == 1 else WIDTHS[:-1]:
        columns, dropped = _search(program, relaxed, loss + program.tolerance, width)
        if columns is not None and program.loss(columns) < loss:
            best = exchanged(program, relaxed, columns)
            loss = program.loss(best)
        proven = min(max(proven, dropped), loss)
        if proven >= loss - program.tolerance:
            return Found(best, loss)
    return Found(best, proven)


def _search(
    program: Program, relaxed: Relaxed, cutoff: float, width: int
) -> tuple[Choice | None, float]:
    """Return the best choice with a loss up to the cutoff.

    Beyond `width`, the partial choices that promise least are dropped; the least loss that any of
    them could have led to is returned too.
    """
    distance = cutoff - relaxed.optimum
    columns = np.argsort(relaxed.reduced, kind="stable")
    columns = columns[: np.searchsorted(relaxed.reduced[columns], distance, side="right")]
    layers = [columns[program.owner[columns] == layer] for layer in range(len(program.starts))]
    if min(map(len, layers)) == 0:
        return None, np.inf
    order = sorted(range(len(layers)), key=lambda layer: len(layers[layer]))
    to_come = _ToCome.after(program, relaxed, order)
    states, dropped = _States.empty(program.n_resources), np.inf
    history: list[_States] = []
    for layer, rest in zip(order, to_come, strict=True):
        states = states.extended(program, relaxed, layers[layer], distance).undominated()
        bounds = rest.bounds(states)
        promising = np.isfinite(bounds) & (bounds <= cutoff)
        states, bounds = states.at(promising), bounds[promising]
        if len(bounds) > width:
            by_bound = np.argpartition(bounds, width)
            dropped = min(dropped, float(bounds[by_bound[width]]))
            states = states.at(by_bound[:width])
        if len(states.losses) == 0:
            return None, dropped
        history.append(states)
    row = int(np.argmin(states.losses))
    chosen = np.zeros(len(order), dtype=np.intp)
    for layer, states in zip(reversed(order), reversed(history), strict=True):
        chosen[layer] = states.column[row]
        row = int(states.parent[row])
    return chosen, dropped


@dataclass(frozen=True, slots=True)
class _ToCome:
    """What the layers after some point must add at least.

    Attributes:
        least: Cost of every resource, shape `(resources,)`.
        prices: Shape `(prices, resources)`.
        values: Least loss plus cost at those prices, shape `(prices,)`.
    """

    least: Floats
    prices: Floats
    values: Floats

    @classmethod
    def after(cls, program: Program, relaxed: Relaxed, order: list[int]) -> list[_ToCome]:
        """Look ahead from every layer of the order.

        Any prices give a lower bound; which ones give the best depends on what is left to spend,
        so that several around the relaxation's are tried.
        """
        steps = int(N_PRICES ** (1 / program.n_resources))
        factors = np.append(0.0, np.geomspace(1 / 16, 16, steps - 1))
        prices = relaxed.prices * np.array(list(product(factors, repeat=program.n_resources)))
        priced = program.losses[:, None] + program.costs @ prices.T  # (columns, prices)
        values = np.minimum.reduceat(priced, program.starts)[order]  # (layers, prices)
        least = np.minimum.reduceat(program.costs, program.starts)[order]  # (layers, resources)
        # Sums over the layers behind each one.
        values = np.cumsum(values[::-1], axis=0)[::-1] - values
        least = np.cumsum(least[::-1], axis=0)[::-1] - least
        return [cls(a, prices, b) for a, b in zip(least, values, strict=True)]

    def bounds(self, states: _States) -> Floats:
        """Return the least loss that each partial choice can lead to, infinite if none fits."""
        room = 1.0 - states.used
        bounds = np.where((room >= self.least - ROUNDING).all(axis=1), states.losses, np.inf)
        least = np.zeros(len(bounds))
        for price, value in zip(self.prices, self.values, strict=True):
            np.maximum(least, value - room @ price, out=least)
        return bounds + least


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

    def extended(
        self, program: Program, relaxed: Relaxed, columns: Choice, distance: float
    ) -> _States:
        """Add a layer's columns, ascending by reduced cost, while their sums stay in reach."""
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
        """Drop states that another beats in loss and cost: all with one resource, else most.

        With more resources a state is compared with the best one below some levels of the others.
        """
        by_cost = self.at(np.lexsort((self.losses, self.used[:, 0])))
        others = by_cost.used[:, 1:]
        beaten = np.zeros(len(others), dtype=bool)
        steps = int(N_LEVELS ** (1 / max(others.shape[1], 1)))
        levels = np.quantile(others, np.linspace(0, 1, steps), axis=0)  # (steps, others)
        for level in product(*levels.T):
            below = np.where((others <= level).all(axis=1), by_cost.losses, np.inf)
            before = np.minimum.accumulate(np.append(np.inf, below[:-1]))
            beaten |= (others >= level).all(axis=1) & (before <= by_cost.losses)
        return by_cost.at(~beaten)
