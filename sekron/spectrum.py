"""The exact error of every rank of a structure, without computing a single factor twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sekron.contraction import flops_of_ranks, n_params_of_ranks
from sekron.cp import fit_work
from sekron.decomposition import leading, relative_error
from sekron.digits import to_digits
from sekron.geometry import Geometry
from sekron.metric import Metric, whole_channels
from sekron.pareto import mixed_front
from sekron.structure import FAMILIES, Shape, Structure, n_ranks

WORK = 2e9
"""Multiply-adds for the eigenvalues of one `chain`: it sets how many earlier ranks are tried."""

CACHE_BYTES = 2**28
"""Memory for the unfoldings of one weight that several structures share."""

FITTED_RANKS = 8
"""How many ranks of `ring` and `tucker` are fitted, one by one."""

CP_RANKS = range(16, 5, -1)
CP_WORK = 1.6e11
"""How many ranks of a `cp` are fitted, and the multiply-adds for all of them."""

CP_LEAST, CP_MOST = 0.03, (0.75, 0.5, 0.35)
"""Least and largest rank of a `cp`, relative to where it saves nothing any more."""


@dataclass(frozen=True, slots=True)
class RankCurve:
    """One factorization at all ranks worth keeping; row i of each array is one candidate.

    Attributes:
        family: Of the structure.
        shapes: Factor shapes.
        ranks: Shape `(candidates, ranks)`.
        errors: Relative error, in the metric where there is one, of what `decompose` returns.
        flops: Multiply-adds for one image.
        params: Numbers stored.
    """

    family: str
    shapes: tuple[Shape, ...]
    ranks: NDArray[np.int64]
    errors: NDArray[np.float64]
    flops: NDArray[np.int64]
    params: NDArray[np.int64]

    def structure(self, row: int) -> Structure:
        """Return the structure of one row."""
        return Structure(self.family, self.shapes, tuple(map(int, self.ranks[row])))


class Spectra:
    """Rank curves of one weight; unfoldings that structures share are computed once.

    Args:
        weight: Of a layer, `(out, in, kernel…)`, finite.
        geometries: The convolutions around the weight, one per call of the layer.
        metric: In which errors are measured; one of a structure that divides channels between
            factors is then known at a few ranks only, by rebuilding.
    """

    def __init__(
        self, weight: Tensor, geometries: tuple[Geometry, ...], metric: Metric | None = None
    ) -> None:
        self.plain, self.metric = weight.detach().double(), metric
        self.weight = self.plain if metric is None else metric.whiten(self.plain)
        self.shape = tuple(weight.shape)
        self.geometries = geometries
        self.energy = float(self.weight.square().sum())
        self.dense_params = prod(self.shape)
        dense = Structure.dense(self.shape)
        self.dense_flops = int(self.flops(dense.shapes, dense.bonds, np.zeros((1, 0), int))[0])
        self._unfoldings: OrderedDict[Shape, Tensor] = OrderedDict()

    def flops(
        self,
        shapes: tuple[Shape, ...],
        bonds: tuple[tuple[int, ...], ...],
        ranks: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Return the multiply-adds of all calls, one number per row of ranks."""
        total = np.zeros(len(ranks), dtype=np.int64)
        for geometry in self.geometries:
            total += flops_of_ranks(shapes, bonds, ranks, geometry)
        return total

    def curve(self, family: str, shapes: tuple[Shape, ...]) -> RankCurve:
        """Return the candidates of a factorization that save FLOPs or parameters.

        `sekron` and two factors: every rank. Longer `chain`: every last rank, and as many of the
        earlier ones as `WORK` allows, spaced evenly in their logarithm. Other families: a few
        ranks, each fitted.
        """
        caps = self._caps(family, shapes)
        if min(caps, default=0) == 0:
            return self._worthwhile(family, shapes, np.ones((0, len(caps)), int), np.ones(0))
        split = self.metric is not None and not all(
            whole_channels(Structure(family, shapes, (1,) * len(caps)))
        )
        if split:
            ranks = scaled_ranks(caps, FITTED_RANKS)
            return self._worthwhile(family, shapes, ranks, self._fitted(family, shapes, ranks))
        if family == "sekron" or (len(shapes) == 2 and family == "chain"):
            kept = self._sekron(shapes, caps)
            ranks = 1 + np.indices(kept.shape).reshape(len(caps), -1).T
            return self._worthwhile(family, shapes, ranks, self._errors(kept.reshape(-1)))
        if family == "chain":
            rest = to_digits(self._right(shapes[0], caps[0]), shapes[1:]).contiguous()
            rows = [
                np.column_stack(
                    (np.tile(prefix, (len(kept), 1)), np.arange(1, len(kept) + 1), kept)
                )
                for prefix, kept in _chain(rest, caps)
            ]
            table = np.concatenate(rows)
            ranks, kept = table[:, :-1].astype(np.int64), table[:, -1]
            return self._worthwhile(family, shapes, ranks, self._errors(kept))
        if family == "cp":
            ranks = _cp_ranks(caps[0], self.dense_params)
        else:
            ranks = scaled_ranks(caps, FITTED_RANKS)
        return self._worthwhile(family, shapes, ranks, self._fitted(family, shapes, ranks))

    def _fitted(
        self, family: str, shapes: tuple[Shape, ...], ranks: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        structures = [Structure(family, shapes, tuple(map(int, row))) for row in ranks]
        return np.array([relative_error(self.plain, s, self.metric) for s in structures])

    def _caps(self, family: str, shapes: tuple[Shape, ...]) -> tuple[int, ...]:
        """Largest rank of each bond that still saves something when all others are 1."""
        sizes = [prod(shape) for shape in shapes]
        bonds = FAMILIES[family](len(shapes))
        caps = []
        for bond in range(n_ranks(family, len(shapes))):
            if family in ("sekron", "chain"):
                rows = prod(sizes[: bond + 1]) if family == "chain" else sizes[bond]
                most = min(rows, prod(sizes[bond + 1 :]))
            else:
                most = max(prod(sizes) // max(sizes), *sizes) if family == "cp" else sizes[bond]
            ranks = np.ones((most, n_ranks(family, len(shapes))), dtype=np.int64)
            ranks[:, bond] = np.arange(1, most + 1)
            caps.append(int(self._saves(bonds, shapes, ranks).sum()))
        return tuple(caps)

    def _saves(
        self,
        bonds: tuple[tuple[int, ...], ...],
        shapes: tuple[Shape, ...],
        ranks: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        fewer_params = n_params_of_ranks(shapes, bonds, ranks) < self.dense_params
        return fewer_params | (self.flops(shapes, bonds, ranks) < self.dense_flops)

    def _right(self, shape: Shape, rank: int) -> Tensor:
        """Project the weight on the leading directions of a first factor of that shape.

        Returns:
            Shape `(rank, *rest)`: row r is the r-th singular value times its right vector.
        """
        if shape not in self._unfoldings:
            rest = tuple(n // f for n, f in zip(self.shape, shape, strict=True))
            matrix = to_digits(self.weight, (shape, rest))
            full = leading(matrix[None], min(matrix.shape))[1][0]
            self._unfoldings[shape] = full.reshape(-1, *rest)
            while len(self._unfoldings) * 8 * self.dense_params > CACHE_BYTES:
                self._unfoldings.popitem(last=False)
            return full.reshape(-1, *rest)[:rank]
        self._unfoldings.move_to_end(shape)
        return self._unfoldings[shape][:rank]

    def _sekron(self, shapes: tuple[Shape, ...], caps: tuple[int, ...]) -> NDArray[np.float64]:
        """Energy kept by every combination of ranks, shape `caps`: branches never interact."""
        rest = self._right(shapes[0], caps[0])
        if len(shapes) == 2:
            energies = rest.reshape(len(rest), -1).square().sum(dim=1)
        else:
            rest = to_digits(rest, shapes[1:])
            for k, cap in enumerate(caps[1:-1], start=1):
                branches = rest.reshape(prod(caps[:k]), rest.shape[1], -1)
                rest = leading(branches, cap)[1].reshape(-1, *map(prod, shapes[k + 1 :]))
            energies = _singular_values_squared(rest)[:, : caps[-1]].reshape(caps)
        for axis in range(len(caps)):
            energies = energies.cumsum(dim=axis)
        return energies.cpu().numpy()

    def _errors(self, kept: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.energy == 0.0:
            return np.zeros_like(kept)
        return np.sqrt(np.clip(1.0 - kept / self.energy, 0.0, None))

    def _worthwhile(
        self,
        family: str,
        shapes: tuple[Shape, ...],
        ranks: NDArray[np.int64],
        errors: NDArray[np.float64],
    ) -> RankCurve:
        bonds = FAMILIES[family](len(shapes))
        flops = self.flops(shapes, bonds, ranks)
        params = n_params_of_ranks(shapes, bonds, ranks)
        saving = np.flatnonzero((flops < self.dense_flops) | (params < self.dense_params))
        rows = saving[
            mixed_front(
                flops[saving] / self.dense_flops, params[saving] / self.dense_params, errors[saving]
            )
        ]
        return RankCurve(family, shapes, ranks[rows], errors[rows], flops[rows], params[rows])


def _chain(
    rest: Tensor, caps: tuple[int, ...], prefix: tuple[int, ...] = ()
) -> Iterator[tuple[tuple[int, ...], NDArray[np.float64]]]:
    """Yield earlier ranks and, for them, the energies that all last ranks keep.

    Args:
        rest: What the first factor leaves, `(R_1, n_2, …, n_S)`, strongest direction first.
        caps: Largest rank of each bond still open.
        prefix: Ranks chosen before.

    Yields:
        All ranks but the last, and the energy kept by a last rank of 1, 2, 3, …
    """
    _, rows, *after = rest.shape
    grid = _grid(min(caps[0], len(rest)), min(prod(after), caps[0] * rows), len(caps) - 1)
    gram: Tensor | float = 0.0  # of the last factor's side, grown from rank to rank
    before = 0
    for rank in grid:
        matrix = rest[:rank].reshape(rank * rows, -1)
        if len(caps) > 2:
            cap = min(caps[1], *matrix.shape)
            right = leading(matrix[None], cap)[1].reshape(cap, *after)
            yield from _chain(right, caps[1:], (*prefix, rank))
            continue
        if rank * rows <= after[0]:
            values = torch.linalg.eigvalsh(matrix @ matrix.T)
        else:
            added = rest[before:rank].reshape(-1, after[0])
            gram = added.T @ added + gram
            before = rank
            values = torch.linalg.eigvalsh(gram)
        kept = values.flip(0).clamp_min(0.0)[: caps[1]].cumsum(dim=0)
        yield (*prefix, rank), kept.cpu().numpy()


def _grid(cap: int, size: int, n_levels: int) -> list[int]:
    """Ranks to try at a level that is not the last; all of them where that is cheap."""
    points = max(8, int(WORK / size**3)) if n_levels == 1 else 8
    if points >= cap:
        return list(range(1, cap + 1))
    return sorted({round(cap ** (i / (points - 1))) for i in range(points)})


def scaled_ranks(caps: tuple[int, ...], number: int) -> NDArray[np.int64]:
    """Return that many ranks at most, from 1 to their caps, all scaled together."""
    shares = np.linspace(0.0, 1.0, number)
    return np.unique([[max(1, round(cap**share)) for cap in caps] for share in shares], axis=0)


def _cp_ranks(cap: int, size: int) -> NDArray[np.int64]:
    """Ranks spaced evenly in their logarithm, the fewer and lower the longer their fits take."""
    for most, number in product(CP_MOST, CP_RANKS):
        least, last = (max(1, round(share * cap)) for share in (CP_LEAST, most))
        ranks = np.unique(np.geomspace(least, last, number).round().astype(np.int64))
        if sum(fit_work(size, int(rank)) for rank in ranks) <= CP_WORK:
            break
    return ranks[:, None]


def _singular_values_squared(matrices: Tensor) -> Tensor:
    """Squared singular values of `(batch, m, n)`, largest first, from the smaller Gram matrix."""
    rows, columns = matrices.shape[-2:]
    smaller = matrices if rows <= columns else matrices.mT
    values: Tensor = torch.linalg.eigvalsh(smaller @ smaller.mT)
    return values.flip(-1).clamp_min(0.0)
