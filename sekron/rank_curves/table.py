"""The candidates of one layer: points on the front of error against FLOPs and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.relaxation import Options
from sekron.decomposition.metric import ERROR_POWER, Metric
from sekron.rank_curves.curves import RankCurve
from sekron.rank_curves.pareto import MIXES, front, mixed_front
from sekron.structures.families import Point
from sekron.structures.structure import Structure


@dataclass(slots=True)
class CandidateTable:
    """Rows that no other row beats in error and cost, for any mix of FLOPs and parameters.

    The dense layer is not a row; it is always there, with error 0 and cost 1. A row adds
    `sensitivity · error ** power` to the error of a plan.

    Attributes:
        dense_flops: Multiply-adds of the dense layer, all its calls.
        dense_params: Numbers in the dense weight.
        sensitivity: Factor of `error ** power` in the error of a plan.
        power: Power of the relative error in the error of a plan.
        groups: Number of groups of the convolution.
        points: Structures without ranks, in the order in which they were scored.
        point: Per row, index into `points`.
        ranks: Per row, the ranks.
        errors: Per row, the relative error.
        flops: Per row, multiply-adds.
        params: Per row, numbers stored.
    """

    dense_flops: int
    dense_params: int
    sensitivity: float = 1.0
    power: int = 2
    groups: int = 1
    points: list[Point] = field(default_factory=list)
    ranks: list[tuple[int, ...]] = field(default_factory=list)
    point: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    flops: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    params: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def within(
        cls, metric: Metric | None, dense_flops: int, dense_params: int, groups: int = 1
    ) -> CandidateTable:
        """Return an empty table whose errors will be in a metric, or in the plain norm."""
        if metric is None:
            return cls(dense_flops, dense_params, groups=groups)
        return cls(dense_flops, dense_params, metric.sensitivity, ERROR_POWER, groups)

    def __len__(self) -> int:
        return len(self.ranks)

    def add(self, *curves: RankCurve) -> NDArray[np.intp]:
        """Merge rank curves and return which of all their rows are on the front now, ascending."""
        n_before, first = len(self), len(self.points)
        self.points += [(curve.family, curve.shapes) for curve in curves]
        ranks = [*self.ranks, *(tuple(row) for curve in curves for row in curve.ranks.tolist())]
        lengths = [len(curve.errors) for curve in curves]
        point = np.append(self.point, np.repeat(np.arange(first, len(self.points)), lengths))
        errors = np.concatenate([self.errors, *(curve.errors for curve in curves)])
        flops = np.concatenate([self.flops, *(curve.flops for curve in curves)])
        params = np.concatenate([self.params, *(curve.params for curve in curves)])
        rows = mixed_front(flops / self.dense_flops, params / self.dense_params, errors)
        self.ranks = [ranks[row] for row in rows]
        self.point, self.errors = point[rows], errors[rows]
        self.flops, self.params = flops[rows], params[rows]
        return rows[rows >= n_before] - n_before

    def structure(self, row: int) -> Structure:
        """Return the structure of one row."""
        family, shapes = self.points[self.point[row]]
        return Structure(family, shapes, self.ranks[row], self.groups)

    def options(self, resources: Sequence[str]) -> Options:
        """Return all rows, then the dense layer, as the allocation takes them.

        Args:
            resources: Names of the costs, in the order of their columns: flops, params.
        """
        dense = {"flops": self.dense_flops, "params": self.dense_params}
        costs = [np.append(getattr(self, name), dense[name]).astype(float) for name in resources]
        return Options(self.losses(), np.array(costs).T.reshape(len(self) + 1, -1))

    def losses(self) -> NDArray[np.float64]:
        """Return what every row, then the dense layer, adds to the error of a plan."""
        return np.append(self.sensitivity * self.errors**self.power, 0.0)

    def costs(self, mix: float) -> NDArray[np.float64]:
        """Return the cost `mix · flops + (1 − mix) · params` of every row, relative to dense."""
        flops, params = self.flops / self.dense_flops, self.params / self.dense_params
        return mix * flops + (1.0 - mix) * params

    def front(self, mix: float) -> NDArray[np.intp]:
        """Return the rows on the front of error against a mixed cost, cheapest first."""
        return front(self.costs(mix), self.errors)

    def exclusive_areas(self, mix: float) -> dict[int, float]:
        """Return, per structure on a front, the area of error × cost that only its rows dominate.

        Args:
            mix: Share of FLOPs in the cost.

        Returns:
            Index into `points` -> area, positive.
        """
        rows = self.front(mix)
        costs, errors = self.costs(mix)[rows], self.errors[rows]
        areas = (np.append(costs[1:], 1.0) - costs) * (np.append(1.0, errors[:-1]) - errors)
        shares: dict[int, float] = {}
        for index, area in zip(self.point[rows], areas, strict=True):
            shares[int(index)] = shares.get(int(index), 0.0) + max(float(area), 0.0)
        return shares


FRONTS = (MIXES[-1], MIXES[0])
"""The two pure fronts: error against FLOPs, and error against parameters."""
