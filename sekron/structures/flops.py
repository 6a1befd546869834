"""What a structure costs: the multiply-adds of its steps, and the numbers that it stores.

Costs are monomials in the ranks, so those of many ranks are computed at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sekron.structures.families import Bonds, Shape
from sekron.structures.geometry import Geometry
from sekron.structures.steps import (
    GROUP,
    REMEMBERED,
    Axis,
    Step,
    extended_axes,
    final_state,
    keeps_channels_whole,
    step_dilation,
    steps,
)

LONGEST_ENUMERATED = 6
"""Most factors of which all orders are considered; of more, only two: 7! orders help nobody."""


@lru_cache(REMEMBERED)
def orders(shapes: tuple[Shape, ...], bonds: Bonds) -> tuple[tuple[int, ...], ...]:
    """Return the orders to choose from, the ones with the fewest permutations first.

    Where no factor divides the channels, these are only the orders that run as a plain sequence of
    convolutions, if there are any.
    """
    length = len(shapes)
    backwards = tuple(range(length - 1, -1, -1))
    if length > LONGEST_ENUMERATED:
        return (backwards, backwards[::-1])

    def size(axis: Axis) -> int:
        if axis == GROUP:
            return 1
        return 2 if axis[0] == "r" else shapes[axis[1]][0 if axis[0] == "f" else 1]

    def n_moves(order: tuple[int, ...]) -> int:
        sequence = steps(shapes, bonds, order)
        state = extended_axes(final_state(sequence), size)
        return sum(step.moves(size) for step in sequence) + (state != tuple(sorted(state)))

    moves = {order: n_moves(order) for order in permutations(backwards)}
    # A reshape costs more on the clock than the FLOPs that it saves.
    if keeps_channels_whole(shapes):
        fewest = min(moves.values())
        return tuple(order for order, n in moves.items() if n == fewest)
    return tuple(sorted(moves, key=lambda order: moves[order]))


def cheapest_order(
    shapes: tuple[Shape, ...], bonds: Bonds, ranks: tuple[int, ...], stride: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Return, of `orders`, the one with the fewest multiply-adds on a large image.

    It depends on nothing but the structure and the stride, so a layer and everything that
    counts its cost choose the same order without knowing the image.
    """
    row = np.array([ranks], dtype=np.int64)
    return orders(shapes, bonds)[int(_choices(shapes, bonds, row, stride)[0])]


def flops(
    shapes: tuple[Shape, ...],
    bonds: Bonds,
    ranks: tuple[int, ...],
    geometry: Geometry,
    order: tuple[int, ...],
) -> int:
    """Return the multiply-adds of one structure in that order, for one image."""
    return sum(
        _coefficient(shapes, order, i, step, geometry) * prod(ranks[b] for b in _ranks_of(step))
        for i, step in enumerate(steps(shapes, bonds, order))
    )


def flops_of_ranks(
    shapes: tuple[Shape, ...],
    bonds: Bonds,
    ranks: NDArray[np.int64],
    geometry: Geometry,
    order: tuple[int, ...] | None = None,
) -> NDArray[np.int64]:
    """Return the multiply-adds of many ranks at once, in that order or each in its cheapest.

    Args:
        shapes: Factor shapes.
        bonds: Bonds of the factors.
        ranks: One row per candidate, one column per bond.
        geometry: The convolution around the kernel.
        order: Order of the factors; None for the cheapest of each row.

    Returns:
        One number per row, equal to `flops` of that structure.
    """
    if order is not None:
        costs = [
            _coefficient(shapes, order, i, step, geometry) * _product(ranks, step)
            for i, step in enumerate(steps(shapes, bonds, order))
        ]
        return np.asarray(np.sum(costs, axis=0, dtype=np.int64))
    choices = _choices(shapes, bonds, ranks, geometry.stride)
    total = np.zeros(len(ranks), dtype=np.int64)
    for choice in np.unique(choices):
        rows, cheapest = choices == choice, orders(shapes, bonds)[choice]
        total[rows] = flops_of_ranks(shapes, bonds, ranks[rows], geometry, cheapest)
    return total


def flops_of_calls(
    shapes: tuple[Shape, ...],
    bonds: Bonds,
    ranks: NDArray[np.int64],
    calls: Sequence[Geometry],
    order: tuple[int, ...] | None = None,
) -> NDArray[np.int64]:
    """Return what `flops_of_ranks` does, summed over all calls of a layer; most are alike."""
    total = np.zeros(len(ranks), dtype=np.int64)
    for geometry, times in Counter(calls).items():
        total += times * flops_of_ranks(shapes, bonds, ranks, geometry, order)
    return total


def n_params_of_ranks(
    shapes: tuple[Shape, ...], bonds: Bonds, ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the numbers stored for many ranks at once, one per row."""
    total = np.zeros(len(ranks), dtype=np.int64)
    for shape, factor_bonds in zip(shapes, bonds, strict=True):
        total += prod(shape) * ranks[:, list(factor_bonds)].prod(axis=1)
    return total


def _choices(
    shapes: tuple[Shape, ...], bonds: Bonds, ranks: NDArray[np.int64], stride: tuple[int, ...]
) -> NDArray[np.intp]:
    costs = [
        sum(
            _coefficient(shapes, order, i, step, None, stride) * _product(ranks, step)
            for i, step in enumerate(steps(shapes, bonds, order))
        )
        for order in orders(shapes, bonds)
    ]
    return np.asarray(
        np.argmin(np.array(costs), axis=0)
    )  # the first of equals has the fewest permutations


def _product(ranks: NDArray[np.int64], step: Step) -> NDArray[Any]:
    return np.asarray(ranks[:, _ranks_of(step)].prod(axis=1))


def _ranks_of(step: Step) -> list[int]:
    return [index for kind, index in step.kept + step.summed + step.new if kind == "r"]


def _coefficient(
    shapes: tuple[Shape, ...],
    order: tuple[int, ...],
    position: int,
    step: Step,
    geometry: Geometry | None,
    stride: tuple[int, ...] = (),
) -> int:
    """Return the multiply-adds of one step at rank 1; without a geometry, per output position."""
    channels = prod(
        shapes[k][0 if kind == "f" else 1]
        for kind, k in step.kept + step.summed + step.new
        if kind in "fc"
    )
    n_axes = len(shapes[0]) - 2
    if geometry is None:
        places = prod(
            1 if _strided(shapes, order, position, a) else s for a, s in enumerate(stride)
        )
    elif n_axes == 0:
        places = prod(geometry.output_size)
    else:
        places = prod(_places(shapes, order, position, a, geometry) for a in range(n_axes))
        places *= geometry.groups
    return channels * prod(shapes[step.factor][2:]) * places


def _strided(shapes: tuple[Shape, ...], order: tuple[int, ...], position: int, axis: int) -> bool:
    """Whether the stride along an axis has been taken after that step."""
    return all(shapes[k][2 + axis] == 1 for k in order[position + 1 :])


def _places(
    shapes: tuple[Shape, ...], order: tuple[int, ...], position: int, axis: int, geometry: Geometry
) -> int:
    """Return the size of an axis after a step."""
    if _strided(shapes, order, position, axis):
        return geometry.output_size[axis]
    applied = [k for k in order[: position + 1] if shapes[k][2 + axis] > 1]
    if not applied:
        return geometry.input_size[axis]
    dilation = geometry.dilation[axis]
    kernel = prod(shape[2 + axis] for shape in shapes)
    padded = (geometry.output_size[axis] - 1) * geometry.stride[axis] + dilation * (kernel - 1) + 1
    return padded - sum(
        step_dilation(shapes, k, axis, dilation) * (shapes[k][2 + axis] - 1) for k in applied
    )
