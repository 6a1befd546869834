"""What scoring one structure takes, from its shape."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import prod

from sekron.decomposition.cp import fit_work
from sekron.decomposition.decompose import REFINED, SWEEPS
from sekron.rank_curves.rank_grid import CP_RANKS, FITTED_RANKS, cp_ranks, earlier_ranks
from sekron.rank_curves.unfoldings import reduced, vectors_too
from sekron.structures.families import Point, Shape, whole_channels

PER_PRODUCT, PER_EIGENVALUE, PER_MATRIX = 5e-11, 4e-10, 2e-5
"""Seconds of a multiply-add in fp64, of the cube of the size of an eigenvalue problem with its
vectors, and of each such problem beside, on one core; least squares over seven layers."""

PER_FIT_PRODUCT, PER_FIT = 9e-11, 5e-2
"""Seconds of a multiply-add of a `cp`, and of each rank that is fitted beside."""

PER_STRUCTURE = 3e-3
"""Seconds of a structure beside its arithmetic."""

VALUES_ALONE = 0.35
"""Time for eigenvalues without vectors, relative to that with them."""


@dataclass(frozen=True, slots=True)
class Work:
    """What the decompositions of one structure are made of.

    Attributes:
        products: Multiply-adds in fp64.
        eigen: Cubes of the sizes of eigenvalue problems.
        matrices: Such problems.
        fit_products: Multiply-adds of the fits of a `cp`.
        fits: Fits, rank by rank.
    """

    products: float = 0.0
    eigen: float = 0.0
    matrices: int = 0
    fit_products: float = 0.0
    fits: int = 0

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return (
            PER_STRUCTURE
            + PER_PRODUCT * self.products
            + PER_EIGENVALUE * self.eigen
            + PER_MATRIX * self.matrices
            + PER_FIT_PRODUCT * self.fit_products
            + PER_FIT * self.fits
        )


@cache
def work_of(
    point: Point,
    is_first_new: bool = True,
    n_cp_ranks: int = CP_RANKS,
    in_metric: bool = False,
) -> Work:
    """Return what scoring a structure at all its ranks takes, for one group.

    Args:
        point: The structure.
        is_first_new: Whether the unfolding along its first factor is not known from another.
        n_cp_ranks: Ranks at which a `cp` is fitted, at most.
        in_metric: Whether errors are measured in a metric of the channels.
    """
    family, shapes = point
    whole = whole_channels(shapes)
    if not in_metric or all(whole) or family == "cp" or family in REFINED:
        return _plain_work(point, is_first_new, n_cp_ranks)
    # Its own whitened weight is decomposed, a longer chain for each rank, and then rebuilt and
    # magnified along the channels that it divides.
    work, times = _plain_work(point, True, n_cp_ranks), 1
    if family == "chain" and len(shapes) > 2:
        times = FITTED_RANKS
    size = prod(prod(shape) for shape in shapes)
    channels = [prod(shape[mode] for shape in shapes) for mode in (0, 1)]
    once = sum(n for n, is_whole in zip(channels, whole, strict=True) if is_whole)
    each = _cap(shapes) // 2 + sum(channels) - once
    return replace(
        work,
        products=times * work.products + size * (once + FITTED_RANKS * each),
        eigen=times * work.eigen,
        matrices=times * work.matrices,
    )


def _cap(shapes: tuple[Shape, ...]) -> int:
    """Return about the largest rank that saves parameters."""
    sizes = [prod(shape) for shape in shapes]
    return max(prod(sizes) // sum(sizes), 1)


def _plain_work(point: Point, is_first_new: bool, n_cp_ranks: int) -> Work:
    """Return the same of a weight without a metric."""
    family, shapes = point
    sizes = [prod(shape) for shape in shapes]
    cap = _cap(shapes)
    if family == "cp" and len(shapes) > 2:
        ranks = cp_ranks(cap, prod(sizes), number=n_cp_ranks)[:, 0].tolist()
        total = sum(fit_work(prod(sizes), rank) for rank in ranks)
        return Work(fit_products=total, fits=len(ranks))
    if family in REFINED:
        per_rank = 2 * SWEEPS * len(sizes) * prod(sizes) * cap
        return Work(products=FITTED_RANKS * per_rank, fits=FITTED_RANKS)
    size = prod(sizes)
    small_shapes = reduced(shapes)
    sizes = [prod(shape) for shape in small_shapes]
    if prod(sizes) < size and len(sizes) == 2 and sizes[0] == sizes[1]:
        return Work(products=0.5 * size * sizes[0], eigen=sizes[0] ** 3, matrices=1)
    size, small = prod(sizes), min(sizes[0], prod(sizes[1:]))
    products, eigen, matrices = 0.0, 0.0, 0
    if is_first_new:
        is_all = len(sizes) > 2 or vectors_too(small_shapes)
        products = (1.5 if is_all else 0.5) * size * small
        eigen, matrices = (1.0 if is_all else VALUES_ALONE) * small**3, 1
    branches = min(small, cap)
    for k, rows in enumerate(sizes[1:-1], start=1):
        columns, is_last = prod(sizes[k + 1 :]), k == len(sizes) - 2
        factor = VALUES_ALONE if is_last else 1.0
        if family == "sekron":
            side = min(rows, columns)
            products += 0.5 * branches * rows * columns * side
            eigen += factor * branches * side**3
            matrices += branches
            branches *= min(side, cap)
        else:
            side = min(branches * rows, columns)
            grid = earlier_ranks(branches, side, len(sizes) - 1 - k)
            products += 0.5 * branches * rows * columns * side
            eigen += factor * sum(min(rank * rows, columns) ** 3 for rank in grid)
            matrices += len(grid)
            branches = min(side, cap)
    return Work(products, eigen, matrices)
