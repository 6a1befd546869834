"""The linear relaxation of the choice across layers, and what it says about every candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.sparse import csr_array

Floats = NDArray[np.float64]

TOLERANCE = 1e-9
"""Relative difference below which two losses are the same number to the solver."""

PENALTIES = (1e4, 1e7, 1e10)
"""Losses, relative to the scale, of using a capacity once more than there is.

The first suffices unless a tiny saving of costs takes a large loss; numbers as large as the last
cost the solver digits."""

ROUNDING = 1e-12
"""Rounding error that a sum of shares of a capacity may have."""


@dataclass(frozen=True, slots=True)
class Options:
    """The candidates of one layer.

    Args:
        losses: What each one adds to the plan's error, shape `(candidates,)`.
        costs: What each one uses of every resource, shape `(candidates, resources)`.
    """

    losses: Floats
    costs: Floats


@dataclass(frozen=True, slots=True)
class Relaxed:
    """The optimum of a program where fractions of candidates may be chosen.

    Attributes:
        optimum: A lower bound of the loss of every choice.
        prices: Loss per share of every capacity, shape `(resources,)`.
        reduced: Reduced cost of every column: how much at least the loss rises above the optimum
            when that column is chosen.
    """

    optimum: float
    prices: Floats
    reduced: Floats


@dataclass(frozen=True, slots=True)
class Program:
    """All candidates of all layers as columns of one program.

    Attributes:
        losses: Shape `(columns,)`.
        costs: Shape `(columns, resources)`, in shares of the capacities.
        owner: Layer of each column.
        starts: First column of each layer.
        scale: Size of a loss, for tolerances.
    """

    losses: Floats
    costs: Floats
    owner: NDArray[np.intp]
    starts: NDArray[np.intp]
    scale: float

    def below(self, loss: float) -> Program:
        """Return the program in which columns of more loss cannot be chosen.

        No better choice holds one of them, and the tolerances fit the scale of the others.

        Args:
            loss: Loss of a choice that fits.
        """
        losses = np.minimum(self.losses, loss)
        costs = np.where((self.losses > loss)[:, None], 2.0, self.costs)
        return replace(self, losses=losses, costs=costs, scale=_scale(losses, self.starts))

    @classmethod
    def of(cls, layers: Sequence[Options], capacities: Floats) -> Program:
        """Line up the candidates; a capacity of 0 admits only candidates that use nothing."""
        sizes = [len(layer.losses) for layer in layers]
        starts = np.cumsum([0, *sizes[:-1]])
        losses = np.concatenate([layer.losses for layer in layers])
        costs = np.concatenate([layer.costs for layer in layers])
        shares = costs / np.where(capacities > 0, capacities, 1.0)
        return cls(
            losses=losses,
            costs=np.where(capacities > 0, shares, np.where(costs > 0, 2.0, 0.0)),
            owner=np.repeat(np.arange(len(sizes)), sizes),
            starts=starts,
            scale=_scale(losses, starts),
        )

    @property
    def n_resources(self) -> int:
        """Number of limited resources."""
        return int(self.costs.shape[1])

    def used(self, columns: NDArray[np.intp]) -> Floats:
        """Return what a choice uses of every resource, as shares of the capacities."""
        return np.asarray(self.costs[columns].sum(axis=0))

    def fits(self, columns: NDArray[np.intp]) -> bool:
        """Whether a choice stays within every capacity."""
        return bool((self.used(columns) <= 1.0 + ROUNDING).all())

    def loss(self, columns: NDArray[np.intp]) -> float:
        """Return the total loss of a choice."""
        return float(self.losses[columns].sum())

    def fits_alone(self) -> bool:
        """Whether each budget can be met without the others."""
        least_costs = np.minimum.reduceat(self.costs, self.starts, axis=0).sum(axis=0)
        return bool((least_costs <= 1.0 + TOLERANCE).all())

    def cheapest(self, prices: Floats) -> NDArray[np.intp]:
        """Return the column of least `losses + costs · prices` of each layer."""
        priced = self.losses + self.costs @ prices
        least = np.flatnonzero(priced == np.minimum.reduceat(priced, self.starts)[self.owner])
        return least[np.searchsorted(self.owner[least], np.arange(len(self.starts)))]

    @property
    def tolerance(self) -> float:
        """Difference below which two losses are the same number to the solver."""
        return TOLERANCE * self.scale

    def relax(self) -> Relaxed | None:
        """Solve the linear relaxation; None when not even fractions fit."""
        prices = self._price() if self.n_resources == 1 else self._prices()
        if prices is None:
            return None
        # The prices are right to some tolerance; at any prices p, this bound is exact:
        # Σₗ min (loss + cost · p) − Σ p.
        priced = self.losses + self.costs @ prices
        bases = np.minimum.reduceat(priced, self.starts)
        return Relaxed(float(bases.sum() - prices.sum()), prices, priced - bases[self.owner])

    def _price(self) -> Floats | None:
        """Return the price of the only resource.

        Of a choice that uses too much and one that fits, the price is tried at which both are
        worth the same. As long as another choice between them is worth more, it takes the place of
        the one on its side.
        """
        dear = self.cheapest(np.zeros(1))
        fitting = np.lexsort((self.losses, self.costs[:, 0], self.owner))[self.starts]
        most, least = self.used(dear)[0], self.used(fitting)[0]
        if least > 1.0 + TOLERANCE:
            return None
        price = 0.0
        while most > max(least, 1.0):
            price = (self.loss(fitting) - self.loss(dear)) / (most - least)
            found = self.cheapest(np.array([price]))
            used = self.used(found)[0]
            if not least < used < most:
                break
            if used > 1.0:
                dear, most = found, used
            else:
                fitting, least = found, used
        return np.array([price])

    def _prices(self) -> Floats | None:
        """Return the prices of several resources, by column generation."""
        for penalty in PENALTIES:
            excess, prices = self._generated(penalty)
            if excess <= TOLERANCE:
                return prices
        return None

    def _generated(self, penalty: float) -> tuple[float, Floats]:
        """Return the excess over capacities and the prices, over all columns."""
        active = np.unique(np.concatenate([self.cheapest(price) for price in self._first_prices()]))
        while True:
            excess, prices, bases = self._solve(active, penalty)
            reduced = self.losses + self.costs @ prices - bases[self.owner]
            columns = self.cheapest(prices)
            entering = columns[reduced[columns] < -self.tolerance]
            if len(np.setdiff1d(entering, active)) == 0:
                return excess, prices
            active = np.union1d(active, entering)

    def _first_prices(self) -> list[Floats]:
        units = np.eye(self.n_resources) * self.scale
        spread = [unit * 10.0**exponent for unit in units for exponent in range(-4, 7)]
        return [np.zeros(self.n_resources), units.sum(axis=0), *spread]

    def _solve(self, active: NDArray[np.intp], penalty: float) -> tuple[float, Floats, Floats]:
        """Solve over some columns; return the excess over capacities, prices and layer values."""
        n, k = len(active), self.n_resources
        # Capacities may be exceeded at a penalty, so that there always is a solution to price.
        # Losses are relative to the scale, as the solver's tolerances are absolute.
        losses = np.concatenate((self.losses[active] / self.scale, np.full(k, penalty)))
        picks = csr_array(
            (np.ones(n), (self.owner[active], np.arange(n))), shape=(len(self.starts), n + k)
        )
        result = linprog(
            losses,
            A_ub=np.hstack((self.costs[active].T, -np.eye(k))),
            b_ub=np.ones(k),
            A_eq=picks,
            b_eq=np.ones(len(self.starts)),
            method="highs",
            # Where no prices suffice, the penalty is so large that presolve gives up.
            options={"presolve": False},
        )
        if result.x is None:
            raise RuntimeError(f"the linear relaxation must be solvable, got: {result.message}")
        prices = self.scale * np.maximum(-np.asarray(result.ineqlin.marginals), 0.0)
        return float(result.x[n:].sum()), prices, self.scale * result.eqlin.marginals


def _scale(losses: Floats, starts: NDArray[np.intp]) -> float:
    return float(np.maximum.reduceat(losses, starts).sum()) or 1.0
