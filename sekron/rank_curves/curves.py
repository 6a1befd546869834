"""The exact error of every rank of a structure, without computing a single factor twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sekron.decomposition.decompose import Decomposition, decompose, leading
from sekron.decomposition.errors import relative_errors
from sekron.decomposition.gram import gram, working
from sekron.decomposition.metric import Metric
from sekron.decomposition.own_precision import in_own_precision
from sekron.rank_curves.pareto import mixed_front
from sekron.rank_curves.rank_grid import CP_RANKS, cp_ranks, earlier_ranks, fitted_ranks
from sekron.rank_curves.unfoldings import Unfoldings, singular_values_squared
from sekron.structures.families import (
    FAMILIES,
    Shape,
    block_shape,
    clipped_ranks,
    n_ranks,
    whole_channels,
)
from sekron.structures.flops import flops_of_calls, n_params_of_ranks
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure


@dataclass(frozen=True, slots=True)
class RankCurve:
    """One factorization at all ranks worth keeping; row i of each array is one candidate.

    Attributes:
        family: Family of the structure.
        shapes: Factor shapes.
        ranks: Shape `(candidates, ranks)`.
        errors: Relative error of what `decompose` returns, in the metric where there is one.
        flops: Multiply-adds for one image.
        params: Numbers stored.
        groups: Number of groups of the convolution; all have the same ranks.
    """

    family: str
    shapes: tuple[Shape, ...]
    ranks: NDArray[np.int64]
    errors: NDArray[np.float64]
    flops: NDArray[np.int64]
    params: NDArray[np.int64]
    groups: int = 1

    def structure(self, row: int) -> Structure:
        """Return the structure of one row."""
        ranks = tuple(map(int, self.ranks[row]))
        return Structure(self.family, self.shapes, ranks, self.groups)


class Spectra:
    """Rank curves of one weight; unfoldings that structures share are computed once.

    The groups of a grouped convolution have the same ranks; their energies are added.

    Args:
        weight: Weight of a layer, `(out, in, kernel…)`, finite.
        geometries: The convolutions around the weight, one per call of the layer.
        metric: Metric in which errors are measured. Structures that divide channels between
            factors are then rebuilt to know their error, and only at a few ranks.
        rank_multiple: Only ranks that are multiples of it are kept.
        n_cp_ranks: Ranks at which a `cp` is fitted, at most.
        decomposition: Gives the factors of what is fitted rank by rank.
    """

    def __init__(
        self,
        weight: Tensor,
        geometries: tuple[Geometry, ...],
        metric: Metric | None = None,
        rank_multiple: int = 1,
        n_cp_ranks: int = CP_RANKS,
        decomposition: Decomposition = decompose,
    ) -> None:
        self.rank_multiple, self.n_cp_ranks = rank_multiple, n_cp_ranks
        self._original, self._decomposition = weight.detach(), decomposition
        self.plain = working(weight)
        self.metric = None if metric is None else metric.to(weight.device)
        self.weight = self.plain if self.metric is None else self.metric.whiten(self.plain)
        self.geometries = geometries
        self.groups = geometries[0].groups
        self.shape = block_shape(tuple(weight.shape), self.groups)
        self.energy = float(self.weight.square().sum(dtype=torch.float64))
        self.dense_params = weight.numel()
        dense = Structure.dense(self.shape)  # of one group: the geometries know of all
        self.dense_flops = int(self.flops(dense.shapes, dense.bonds, np.zeros((1, 0), int))[0])
        self._unfoldings = Unfoldings(self.weight.reshape(self.groups, *self.shape))

    def flops(
        self,
        shapes: tuple[Shape, ...],
        bonds: tuple[tuple[int, ...], ...],
        ranks: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the multiply-adds of all calls, one number per row of ranks."""
        return flops_of_calls(shapes, bonds, ranks, self.geometries)

    def params(
        self,
        shapes: tuple[Shape, ...],
        bonds: tuple[tuple[int, ...], ...],
        ranks: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the numbers stored, one number per row of ranks."""
        return self.groups * n_params_of_ranks(shapes, bonds, ranks)

    def curve(self, family: str, shapes: tuple[Shape, ...]) -> RankCurve:
        """Return the candidates of a factorization that save FLOPs or parameters.

        `sekron` and two factors are tried at every rank; a longer `chain` at every last rank, and
        at as many of the earlier ones as are cheap, spaced evenly in their logarithm; other
        families at a few ranks, each of them fitted.
        """
        with in_own_precision(self.weight):
            return self._curve(family, shapes)

    def _curve(self, family: str, shapes: tuple[Shape, ...]) -> RankCurve:
        caps = self._caps(family, shapes)
        if min(caps, default=0) < self.rank_multiple:
            return self._worthwhile(family, shapes, np.ones((0, len(caps)), int), np.ones(0))
        if self.metric is not None and not all(whole_channels(shapes)):
            return self._fitted_curve(family, shapes, caps)
        if family == "sekron" or (len(shapes) == 2 and family == "chain"):
            energies = self._sekron(shapes, caps)
            ranks = 1 + np.indices(energies.shape).reshape(len(caps), -1).T
            return self._worthwhile(family, shapes, ranks, self._errors(energies.reshape(-1)))
        if family == "chain":
            rest = self._unfoldings.right(shapes, caps[0]).contiguous()
            parts = list(_chain(rest, caps, self.rank_multiple))
            ranks = np.concatenate(
                [
                    np.column_stack((np.tile(prefix, (len(part), 1)), 1 + np.arange(len(part))))
                    for prefix, part in parts
                ]
            )
            energies = torch.cat([part for _, part in parts]).cpu().numpy()
            return self._worthwhile(family, shapes, ranks, self._errors(energies))
        if family == "cp":
            ranks = cp_ranks(caps[0], self.dense_params, self.rank_multiple, self.n_cp_ranks)
            return self._worthwhile(family, shapes, ranks, self._fitted(family, shapes, ranks))
        return self._fitted_curve(family, shapes, caps)

    def _fitted_curve(
        self, family: str, shapes: tuple[Shape, ...], caps: tuple[int, ...]
    ) -> RankCurve:
        def are_kept(ranks: NDArray[np.int64]) -> NDArray[np.bool_]:
            possible = [clipped_ranks(family, shapes, r) == tuple(r) for r in ranks.tolist()]
            return np.array(possible) & self._saves(FAMILIES[family](len(shapes)), shapes, ranks)

        ranks = fitted_ranks(caps, are_kept, self.rank_multiple)
        return self._worthwhile(family, shapes, ranks, self._fitted(family, shapes, ranks))

    def _fitted(
        self, family: str, shapes: tuple[Shape, ...], ranks: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        structures = [Structure(family, shapes, tuple(map(int, r)), self.groups) for r in ranks]
        if not structures:
            return np.zeros(0)
        return np.array(
            relative_errors(self._original, structures, self.metric, self._decomposition)
        )

    def _caps(self, family: str, shapes: tuple[Shape, ...]) -> tuple[int, ...]:
        """Return the largest rank of each bond that still saves something when all others are 1."""
        sizes = [prod(shape) for shape in shapes]
        bonds = FAMILIES[family](len(shapes))
        number = n_ranks(family, len(shapes))
        limits = clipped_ranks(family, shapes, [prod(sizes)] * number)
        caps = []
        for bond, limit in enumerate(limits):
            max_rank = min(limit, sizes[bond]) if family == "ring" else limit
            ranks = np.ones((max_rank, number), dtype=np.int64)
            ranks[:, bond] = np.arange(1, max_rank + 1)
            caps.append(int(self._saves(bonds, shapes, ranks).sum()))
        return tuple(caps)

    def _saves(
        self,
        bonds: tuple[tuple[int, ...], ...],
        shapes: tuple[Shape, ...],
        ranks: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        fewer_params = self.params(shapes, bonds, ranks) < self.dense_params
        return fewer_params | (self.flops(shapes, bonds, ranks) < self.dense_flops)

    def _sekron(self, shapes: tuple[Shape, ...], caps: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the energy that every combination of ranks keeps, shape `caps`.

        It is a running sum along every rank, as branches never interact.
        """
        if len(shapes) == 2:
            energies = self._unfoldings.squares(shapes)[:, : caps[0]].sum(dim=0)
        else:
            rest = self._unfoldings.right(shapes, caps[0]).flatten(0, 1)
            for k, cap in enumerate(caps[1:-1], start=1):
                sizes = rest.shape[2:]
                branches = rest.reshape(self.groups * prod(caps[:k]), rest.shape[1], -1)
                rest = leading(branches, cap)[1].reshape(-1, *sizes)
            squares = singular_values_squared(rest)[:, : caps[-1]]
            energies = squares.reshape(self.groups, *caps).sum(dim=0)
        for axis in range(len(caps)):
            energies = energies.cumsum(dim=axis)
        return energies.cpu().numpy()

    def _errors(self, energies: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return `√(1 − energy / ‖W‖²)` for energies that are kept of the weight."""
        if self.energy == 0.0:
            return np.zeros_like(energies)
        return np.sqrt(np.clip(1.0 - energies / self.energy, 0.0, None))

    def _worthwhile(
        self,
        family: str,
        shapes: tuple[Shape, ...],
        ranks: NDArray[np.int64],
        errors: NDArray[np.float64],
    ) -> RankCurve:
        bonds = FAMILIES[family](len(shapes))
        flops = self.flops(shapes, bonds, ranks)
        params = self.params(shapes, bonds, ranks)
        saves = (flops < self.dense_flops) | (params < self.dense_params)
        saving = np.flatnonzero(saves & (ranks % self.rank_multiple == 0).all(axis=1))
        rows = saving[
            mixed_front(
                flops[saving] / self.dense_flops, params[saving] / self.dense_params, errors[saving]
            )
        ]
        return RankCurve(
            family, shapes, ranks[rows], errors[rows], flops[rows], params[rows], self.groups
        )


def _chain(
    rest: Tensor, caps: tuple[int, ...], multiple: int, prefix: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield earlier ranks and, for them, the energies that all last ranks keep.

    Args:
        rest: What the first factor leaves, `(groups, R_1, n_2, …, n_S)`, strongest direction first.
        caps: Largest rank of each bond still open.
        multiple: Number of which the earlier ranks are multiples.
        prefix: Ranks chosen before.

    Yields:
        All ranks but the last, and the energy kept by a last rank of 1, 2, 3, …
    """
    groups, max_rank, rows, *after = rest.shape
    size = min(prod(after), caps[0] * rows)
    grid = earlier_ranks(min(caps[0], max_rank), size, len(caps) - 1, multiple)
    if len(caps) == 2:
        for rank, squares in zip(grid, _last_squares(rest, grid), strict=True):
            yield (*prefix, rank), squares[:, : caps[1]].sum(dim=0).cumsum(dim=0)
        return
    for rank in grid:
        matrix = rest[:, :rank].reshape(groups, rank * rows, -1)
        cap = min(caps[1], *matrix.shape[1:])
        right = leading(matrix, cap)[1].reshape(groups, cap, *after)
        yield from _chain(right, caps[1:], multiple, (*prefix, rank))


def _last_squares(rest: Tensor, ranks: list[int]) -> Iterator[Tensor]:
    """Yield, for earlier ranks, the squared singular values that are left, largest first.

    One Gram matrix serves all ranks: on the side of the rows its corners do, on the side of the
    columns it grows from rank to rank.

    Args:
        rest: Shape `(groups, R, rows, columns)`.
        ranks: Ascending, at most `R`.
    """
    groups, _, rows, columns = rest.shape
    few = max((rank for rank in ranks if rank * rows <= columns), default=0)
    of_rows = gram(rest[:, :few].reshape(groups, few * rows, columns))
    of_columns: Tensor | float = 0.0
    before = 0
    for rank in ranks:
        if rank <= few:
            values = torch.linalg.eigvalsh(of_rows[:, : rank * rows, : rank * rows])
        else:
            new_rows = rest[:, before:rank].reshape(groups, -1, columns)
            of_columns = gram(new_rows.mT) + of_columns
            before = rank
            values = torch.linalg.eigvalsh(of_columns)
        yield values.flip(1).clamp_min(0.0)
