"""The unfoldings of one weight along the first factor of structures, as spectra need them."""

from __future__ import annotations

from collections import OrderedDict
from functools import cached_property
from math import prod

from torch import Tensor

from sekron.decomposition.decompose import leading
from sekron.decomposition.digits import to_digits
from sekron.decomposition.gram import eigh_of_gram, eigvalsh_of_gram
from sekron.structures.families import Shape

CACHE_BYTES = 2**28
"""Memory for the unfoldings of one weight that several structures share."""

VECTORS_TOO = 2048
"""Size of an eigenvalue problem up to which its vectors may be computed before they are asked for,
which takes several times as long as its values alone."""


class Unfoldings:
    """Unfoldings of one weight; what structures share is computed once.

    A mode that is larger than all others together, such as the inputs of a wide linear layer, is
    first reduced to their size: an orthonormal change of basis of a mode that stands whole in one
    factor changes no singular value.

    Args:
        blocks: The weight by groups, shape `(groups, out, in, kernel…)`.
    """

    def __init__(self, blocks: Tensor) -> None:
        self._blocks = blocks
        self._kept: OrderedDict[tuple[Shape, Shape], Tensor] = OrderedDict()

    def right(self, shapes: tuple[Shape, ...], rank: int) -> Tensor:
        """Project the weight on the leading directions of a first factor.

        Returns:
            Digits of the other factors, shape `(groups, rank, n_2, …, n_S)`: row r is the r-th
            singular value times its right vector.
        """
        blocks, shapes = self._reduced(shapes)
        key = tuple(blocks.shape), shapes[0]
        if key not in self._kept or self._kept[key].shape[1] < rank:
            matrices, rest = _unfolded(blocks, shapes[0])
            fits = 8 * blocks.numel() <= CACHE_BYTES
            # The next structure may ask for a larger rank, unless nothing can be kept for it.
            most = min(matrices.shape[1:]) if fits else rank
            self._kept[key] = leading(matrices, most)[1].reshape(len(blocks), -1, *rest)
        self._kept.move_to_end(key)
        right = self._kept[key]
        while sum(8 * kept.numel() for kept in self._kept.values()) > CACHE_BYTES:
            self._kept.popitem(last=False)
        return to_digits(right[:, :rank], shapes[1:])

    def squares(self, shapes: tuple[Shape, ...]) -> Tensor:
        """Return the squared singular values of the unfolding of two factors, largest first.

        Returns:
            Shape `(groups, values)`.
        """
        blocks, small = self._reduced(shapes)
        size = min(map(prod, small))
        if small != shapes and prod(small[0]) == prod(small[1]):  # one is the largest mode alone
            return self._by_largest[0]
        if vectors_too(small):  # not what is kept: the last digits would tell what was asked before
            return self.right(shapes, size).square().sum(dim=2)
        return singular_values_squared(_unfolded(blocks, small[0])[0])

    def _reduced(self, shapes: tuple[Shape, ...]) -> tuple[Tensor, tuple[Shape, ...]]:
        """Return a smaller weight with the singular values of a structure, and its shapes."""
        small = reduced(shapes)
        return (self._blocks if small == shapes else self._by_largest[1]), small

    @cached_property
    def _by_largest(self) -> tuple[Tensor, Tensor]:
        """Squared singular values along the largest mode, and the weight with that mode reduced.

        It stands there in the basis of its own singular vectors.
        """
        mode = max(range(1, self._blocks.dim()), key=lambda axis: self._blocks.shape[axis])
        others = self._blocks.movedim(mode, -1)  # (groups, other modes…, largest)
        squares, vectors = eigh_of_gram(others.flatten(1, -2))
        small = vectors * squares.sqrt()[:, None, :]
        small = small.to(others.dtype).reshape(*others.shape[:-1], -1)
        return squares.flip(-1), small.movedim(-1, mode)


def vectors_too(shapes: tuple[Shape, ...]) -> bool:
    """Whether longer structures are likely to ask for the vectors of a structure of two factors.

    Many begin with whole modes, few with a certain part of one.
    """
    is_whole = all(min(column) == 1 for column in zip(*shapes, strict=True))
    return is_whole and min(map(prod, shapes)) <= VECTORS_TOO


def reduced(shapes: tuple[Shape, ...]) -> tuple[Shape, ...]:
    """Return factor shapes in which a whole mode is no larger than all other modes together."""
    sizes = [prod(column) for column in zip(*shapes, strict=True)]
    for mode, size in enumerate(sizes):
        others = prod(sizes) // size
        if size > others and sum(shape[mode] > 1 for shape in shapes) == 1:
            small = (min(shape[mode], others) for shape in shapes)
            return tuple(
                (*shape[:mode], n, *shape[mode + 1 :])
                for shape, n in zip(shapes, small, strict=True)
            )
    return shapes


def singular_values_squared(matrices: Tensor) -> Tensor:
    """Return the squared singular values of `(batch, m, n)`, largest first, by a Gram matrix."""
    rows, columns = matrices.shape[-2:]
    return eigvalsh_of_gram(matrices if rows <= columns else matrices.mT).flip(-1)


def _unfolded(blocks: Tensor, shape: Shape) -> tuple[Tensor, Shape]:
    """Return the matrices with a first factor's digits as rows, and the shape of the rest."""
    rest = tuple(n // f for n, f in zip(blocks.shape[1:], shape, strict=True))
    return to_digits(blocks, (shape, rest)), rest
