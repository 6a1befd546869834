"""Which factors of a sequence share which rank, and how large their ranks can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod

Bonds = tuple[tuple[int, ...], ...]
"""For each factor, the indices of the ranks that it carries."""

Shape = tuple[int, ...]
Point = tuple[str, tuple[Shape, ...]]
"""Family and factor shapes: a structure without its ranks."""


def _sekron_bonds(length: int) -> Bonds:
    return tuple(tuple(range(min(k + 1, length - 1))) for k in range(length))


def _chain_bonds(length: int) -> Bonds:
    return tuple(tuple(b for b in (k - 1, k) if 0 <= b < length - 1) for k in range(length))


def _ring_bonds(length: int) -> Bonds:
    return tuple(tuple(sorted({(k - 1) % length, k})) for k in range(length))


def _cp_bonds(length: int) -> Bonds:
    return ((0,),) * length


def _tucker_bonds(length: int) -> Bonds:
    return (*((k,) for k in range(length - 1)), tuple(range(length - 1)))


FAMILIES: dict[str, Callable[[int], Bonds]] = {
    "sekron": _sekron_bonds,
    "chain": _chain_bonds,
    "ring": _ring_bonds,
    "cp": _cp_bonds,
    "tucker": _tucker_bonds,
}
"""Family name -> the bonds of a sequence of that length. The core of `tucker` stands last."""


def block_shape(weight_shape: Shape, groups: int) -> Shape:
    """Return the shape of the weight of one group.

    Raises:
        ValueError: If the groups do not divide the output channels.
    """
    if weight_shape[0] % groups:
        raise ValueError(f"groups must divide the channels of {weight_shape}, got {groups}.")
    return (weight_shape[0] // groups, *weight_shape[1:])


def whole_channels(shapes: Sequence[Shape]) -> tuple[bool, bool]:
    """Return whether no two factors, by their shapes, divide the output or the input channels."""
    whole = [sum(shape[mode] > 1 for shape in shapes) <= 1 for mode in (0, 1)]
    return whole[0], whole[1]


def n_ranks(family: str, length: int) -> int:
    """Return how many ranks a sequence of that family and length has."""
    return len(set(chain(*FAMILIES[family](length))))


def clipped_ranks(family: str, shapes: Sequence[Shape], ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks, each cut to what an exact factorization needs, given those before it."""
    sizes = [prod(shape) for shape in shapes]
    clipped: list[int] = []
    for k, rank in enumerate(ranks):
        if family == "cp":
            max_rank = prod(sizes) // max(sizes)
        elif family == "ring":
            max_rank = prod(sizes)
        elif family == "tucker":
            max_rank = min(sizes[k], prod(sizes) // sizes[k])
        else:
            before = clipped[k - 1] if k and family == "chain" else 1
            max_rank = min(before * sizes[k], prod(sizes[k + 1 :]))
        clipped.append(min(rank, max_rank))
    return tuple(clipped)
