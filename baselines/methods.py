"""Every rival as the candidates of a layer, and as the factors of the one that was chosen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod
from typing import Protocol

import numpy as np
from torch import Tensor

from baselines.conversions import Converted, lifted
from baselines.decompositions import cp, tensor_ring, tensor_train, tucker
from sekron.decomposition.decompose import decompose, reconstruct
from sekron.decomposition.digits import divisors
from sekron.rank_curves.curves import RankCurve, Spectra
from sekron.rank_curves.rank_grid import scaled_ranks
from sekron.structures.families import Point, Shape
from sekron.structures.structure import Structure
from sekron.structures.templates import channel_svd, gkpd, spatial_svd, tucker2

N_RANKS = 12
"""Ranks at which a decomposition is fitted, from 1 to what still saves something."""

MAX_FIT_SECONDS = 10.0
"""Most seconds of one CP decomposition."""


class Method(Protocol):
    """One way to factorize a layer."""

    def curves(self, spectra: Spectra, end: float) -> Iterator[RankCurve]:
        """Yield candidates; nothing is begun after `end` on the performance counter.

        Where time may be up before all of them, those that differ most come first.
        """
        ...

    def factorize(self, weight: Tensor, structure: Structure) -> Converted:
        """Return the factors of a candidate, and the structure that they belong to."""
        ...


@dataclass(frozen=True, slots=True)
class Truncated:
    """A decomposition whose error at every rank follows from singular values.

    Attributes:
        points: From the shape of a weight to families and factor shapes.
        fit: From a weight and a structure to the factors.
    """

    points: Callable[[Shape], Iterable[Point]]
    fit: Callable[[Tensor, Structure], Converted]

    def curves(self, spectra: Spectra, end: float) -> Iterator[RankCurve]:
        """Yield every structure at all its ranks."""
        for family, shapes in dict.fromkeys(map(_real, self.points(spectra.shape))):
            if time.perf_counter() > end:
                return
            if len(shapes) > 1:
                yield spectra.curve(family, shapes)

    def factorize(self, weight: Tensor, structure: Structure) -> Converted:
        """Return the factors of a candidate, and the structure that they belong to."""
        return self.fit(weight, structure)


@dataclass(frozen=True, slots=True)
class Fitted:
    """A decomposition by TensorLy at a grid of ranks, each fitted to know its error.

    A weight of two modes is factorized by SVD, which is what all of them are there.

    Attributes:
        ranks: From the shape of a weight without modes of extent 1 to ranks worth a try.
        fit: From a weight and such ranks to a structure and its factors.
    """

    ranks: Callable[[Shape], Iterable[tuple[int, ...]]]
    fit: Callable[[Tensor, tuple[int, ...]], Converted]

    def curves(self, spectra: Spectra, end: float) -> Iterator[RankCurve]:
        """Yield one candidate per fit; one that fails or saves nothing is left out."""
        squeezed = spectra.weight.squeeze()
        if squeezed.dim() <= 2:
            yield from SVD.curves(spectra, end)
            return
        for ranks in _spread(sorted(self.ranks(tuple(squeezed.shape)))):
            if time.perf_counter() > end:
                return
            try:
                structure, factors = self._lifted(spectra.weight, ranks)
            except ValueError:  # the fit diverged, and says so
                continue
            error = (spectra.weight - reconstruct(factors, structure)).norm()
            curve = _single(spectra, structure, float(error) / max(spectra.energy, 1e-300) ** 0.5)
            if curve.flops[0] < spectra.dense_flops or curve.params[0] < spectra.dense_params:
                yield curve

    def factorize(self, weight: Tensor, structure: Structure) -> Converted:
        """Return the factors of a candidate, and the structure that they belong to."""
        if weight.squeeze().dim() <= 2:
            return SVD.factorize(weight, structure)
        return self._lifted(weight, structure.ranks)

    def _lifted(self, weight: Tensor, ranks: tuple[int, ...]) -> Converted:
        # In fp64 always, so that what is scored is what is used.
        structure, factors = lifted(self.fit(weight.double().squeeze(), ranks), tuple(weight.shape))
        return structure, tuple(factor.to(weight.dtype) for factor in factors)


def _spread(grid: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Yield the ends, then the middle, then the middles between: time may be up at any moment."""
    seen: set[int] = set()
    step = len(grid) - 1
    while step > 0 or not seen:
        for place in (*range(0, len(grid), max(step, 1)), len(grid) - 1):
            if place not in seen:
                seen.add(place)
                yield grid[place]
        step //= 2


def _single(spectra: Spectra, structure: Structure, error: float) -> RankCurve:
    ranks = np.array([structure.ranks], dtype=np.int64)
    return RankCurve(
        structure.family,
        structure.shapes,
        ranks,
        np.array([error]),
        spectra.flops(structure.shapes, structure.bonds, ranks),
        spectra.params(structure.shapes, structure.bonds, ranks),
    )


def _real(point: Point) -> Point:
    """Leave out factors that hold no mode, such as the middle of a Tucker-2 of a 1×1 kernel."""
    family, shapes = point
    return family, tuple(shape for shape in shapes if max(shape) > 1)


def truncate(weight: Tensor, structure: Structure) -> Converted:
    """Return the factors of a structure as `sekron.decompose` computes them."""
    return structure, decompose(weight, structure)


def _tucker2(weight: Tensor, structure: Structure) -> Converted:
    """Fit Tucker-2 by orthogonal iteration, which starts from the truncation and only gains."""
    if structure.length < 3:
        return truncate(weight, structure)
    return tucker(weight, structure.ranks, modes=(0, 1))


def _trains(weight_shape: Shape) -> Iterator[Point]:
    """Yield tensor trains through the modes as stored, and as a convolution does, input first."""
    modes = [mode for mode, size in enumerate(weight_shape) if size > 1]
    for order in (modes, [*modes[1:], *modes[:1]]):
        shapes = (
            tuple(weight_shape[m] if m == mode else 1 for m in range(len(weight_shape)))
            for mode in order
        )
        yield "chain", tuple(shapes)


def _tensor_train(weight: Tensor, structure: Structure) -> Converted:
    order = [max(range(len(shape)), key=shape.__getitem__) for shape in structure.shapes]
    rest = [mode for mode in range(weight.dim()) if mode not in order]
    moved = weight.permute(*order, *rest).reshape([weight.shape[mode] for mode in order])
    _, cores = tensor_train(moved, structure.ranks)
    shapes = structure.factor_shapes
    return structure, tuple(core.reshape(s) for core, s in zip(cores, shapes, strict=True))


def _pairs(weight_shape: Shape) -> Iterator[Point]:
    """Yield all Kronecker products of two factors, those nearest to a balance first."""
    total = prod(weight_shape)
    firsts = [f for f in product(*map(divisors, weight_shape)) if 1 < prod(f) < total]
    for first in sorted(firsts, key=lambda f: abs(np.log(prod(f) ** 2 / total))):
        yield gkpd(weight_shape, first)


def _scaled(caps: tuple[int, ...]) -> set[tuple[int, ...]]:
    return {tuple(map(int, ranks)) for ranks in scaled_ranks(caps, N_RANKS)}


def _ring_ranks(shape: Shape) -> list[tuple[int, ...]]:
    """Return rings of equal ranks, and rings closed by few.

    A TR-SVD splits the rank of its first SVD between two bonds, of which one closes the ring.
    """
    rings = {(rank,) * len(shape) for rank in range(1, 1 + int(shape[0] ** 0.5))}
    for closing in (1, 2, 4):
        if closing <= shape[0]:
            caps, before = [shape[0] // closing], shape[0] // closing
            for mode in range(1, len(shape) - 1):
                before = min(before * shape[mode], prod(shape[mode + 1 :]) * closing)
                caps.append(before)
            rings |= {(*inner, closing) for inner in _scaled(tuple(caps))}
    return list(rings)


def _cp_ranks(shape: Shape) -> list[tuple[int, ...]]:
    return list(_scaled((max(1, prod(shape) // sum(shape)),)))


def _tucker_ranks(shape: Shape) -> list[tuple[int, ...]]:
    """Return channel ranks scaled together, with every rank of the kernel's modes."""
    kernels = list(product(*(range(1, size + 1) for size in shape[2:])))
    return [(*c, *k) for c in _scaled(shape[:2]) for k in kernels]


SVD = Truncated(lambda shape: [channel_svd(shape)], truncate)
METHODS: dict[str, Method] = {
    "tensor_train": Truncated(_trains, _tensor_train),
    "tensor_ring": Fitted(_ring_ranks, tensor_ring),
    "cp": Fitted(_cp_ranks, lambda w, ranks: cp(w, ranks[0], max_seconds=MAX_FIT_SECONDS)),
    "tucker": Fitted(_tucker_ranks, partial(tucker, modes=None)),
    "tucker2": Truncated(lambda shape: [tucker2(shape)], _tucker2),
    "spatial_svd": Truncated(lambda shape: [spatial_svd(shape)], truncate),
    "channel_svd": SVD,
    "gkpd": Truncated(_pairs, truncate),
}
"""The rivals, by name."""
