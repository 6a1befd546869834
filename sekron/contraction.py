"""A factorized convolution as a list of steps, one factor each, in any order, and its cost.

Nothing here depends on the values of the ranks: a step names the axes it touches, and costs are
monomials in the ranks. So one list serves every rank, the cost of a structure and the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sekron.geometry import Geometry

if TYPE_CHECKING:
    from sekron.structure import Bonds, Shape, Structure

Axis = tuple[str, int]
"""`("c", k)` in-channel digit of factor k, `("f", k)` out-channel digit, `("r", b)` bond b."""

GROUP: Axis = ("a", 0)
"""The groups of a grouped convolution: every factor carries them, and they sort first."""

LONGEST_ENUMERATED = 6  # above, only the two sweeps are considered: 7! orders help nobody


@dataclass(frozen=True, slots=True)
class Step:
    """One factor applied as one grouped convolution on a tensor whose channels are `state`.

    Attributes:
        factor: Index of the factor.
        state: Axes that make up the channels before the step, slowest first.
        kept: Axes left alone, in the order in which the step wants them, slowest first; those
            that the factor carries too are groups, the others a batch.
        groups: The kept axes that the factor carries.
        summed: Axes that the step sums over; they must stand behind `kept`.
        new: Axes that the step adds behind `kept`.
        pads: Per spatial axis, whether the layer's padding belongs to this step.
        strides: Per spatial axis, whether the layer's stride belongs to this step.
    """

    factor: int
    state: tuple[Axis, ...]
    kept: tuple[Axis, ...]
    groups: tuple[Axis, ...]
    summed: tuple[Axis, ...]
    new: tuple[Axis, ...]
    pads: tuple[bool, ...]
    strides: tuple[bool, ...]

    def moves(self, size: Callable[[Axis], int]) -> bool:
        """Whether the channels must be permuted before the step; axes of size 1 never matter."""
        return _real(self.state, size) != _real(self.kept + self.summed, size)


@cache
def steps(shapes: tuple[Shape, ...], bonds: Bonds, order: tuple[int, ...]) -> tuple[Step, ...]:
    """Return the steps that apply the factors in that order."""
    n_axes = len(shapes[0]) - 2
    plain = _is_plain(shapes)
    ends = {b: i for i, k in enumerate(order) for b in bonds[k]}
    extended = [[i for i, k in enumerate(order) if shapes[k][2 + a] > 1] for a in range(n_axes)]
    state: tuple[Axis, ...] = (GROUP, *(("c", k) for k in range(len(shapes))))
    done = []
    for i, k in enumerate(order):
        own = {GROUP, *(("r", b) for b in bonds[k])}
        ending = {("r", b) for b in bonds[k] if ends[b] == i} | {("c", k)}
        groups = tuple(axis for axis in state if axis in own - ending)
        batch = tuple(axis for axis in state if axis not in own | ending)
        both = tuple(axis for axis in state if axis not in ending)
        # The axis that is summed first stands last, so that few steps need a permutation.
        born = sorted(own - set(state), key=lambda axis: -ends[axis[1]])
        done.append(
            Step(
                factor=k,
                state=state,
                kept=both if plain else batch + groups,
                groups=groups,
                summed=tuple(axis for axis in state if axis in ending),
                new=(("f", k), *born),
                pads=tuple(i == (e[0] if e else 0) for e in extended),
                strides=tuple(i == (e[-1] if e else 0) for e in extended),
            )
        )
        state = done[-1].kept + done[-1].new
    return tuple(done)


def final_state(steps: tuple[Step, ...]) -> tuple[Axis, ...]:
    """Return the axes of the channels after the last step: the out-channel digits."""
    return steps[-1].kept + steps[-1].new


def axis_size(structure: Structure) -> Callable[[Axis], int]:
    """Return the function from an axis to its size."""

    def size(axis: Axis) -> int:
        if axis == GROUP:
            return structure.groups
        if axis[0] == "r":
            return structure.ranks[axis[1]]
        return structure.shapes[axis[1]][0 if axis[0] == "f" else 1]

    return size


@cache
def orders(shapes: tuple[Shape, ...], bonds: Bonds) -> tuple[tuple[int, ...], ...]:
    """Return the orders to choose from, the ones with the fewest permutations first.

    Where no factor divides the channels, only those that run as a plain sequence of convolutions,
    if there are any.
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
        done = steps(shapes, bonds, order)
        last = _real(final_state(done), size)
        return sum(step.moves(size) for step in done) + (last != tuple(sorted(last)))

    moves = {order: n_moves(order) for order in permutations(backwards)}
    if _is_plain(shapes):  # a reshape costs more on the clock than the FLOPs that it saves
        fewest = min(moves.values())
        return tuple(order for order, n in moves.items() if n == fewest)
    return tuple(sorted(moves, key=lambda order: moves[order]))


def cheapest_order(structure: Structure, stride: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Return, of `orders`, the one with the fewest multiply-adds on a large image.

    It depends on nothing but the structure and the stride, so a layer and everything that
    counts its cost choose the same order without knowing the image.
    """
    candidates = orders(structure.shapes, structure.bonds)
    ranks = np.array([structure.ranks], dtype=np.int64)
    return candidates[int(_choices(structure.shapes, structure.bonds, ranks, stride)[0])]


def flops(structure: Structure, order: tuple[int, ...], geometry: Geometry) -> int:
    """Return the multiply-adds of the structure in that order, for one image."""
    return sum(
        _coefficient(structure.shapes, order, i, step, geometry)
        * prod(structure.ranks[b] for b in _ranks_of(step))
        for i, step in enumerate(steps(structure.shapes, structure.bonds, order))
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
        order: Of the factors.

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
    for chosen in np.unique(choices):
        rows, cheapest = choices == chosen, orders(shapes, bonds)[chosen]
        total[rows] = flops_of_ranks(shapes, bonds, ranks[rows], geometry, cheapest)
    return total


def n_params_of_ranks(
    shapes: tuple[Shape, ...], bonds: Bonds, ranks: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the numbers stored for many ranks at once, one per row."""
    total = np.zeros(len(ranks), dtype=np.int64)
    for shape, own in zip(shapes, bonds, strict=True):
        total += prod(shape) * ranks[:, list(own)].prod(axis=1)
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
    """Multiply-adds of one step at rank 1; without a geometry, per output position."""
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
    """Size of an axis after a step."""
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


def step_dilation(shapes: tuple[Shape, ...], factor: int, axis: int, dilation: int) -> int:
    """Return the dilation of a factor: its digit counts in units of all later digits."""
    return dilation * prod(shape[2 + axis] for shape in shapes[factor + 1 :])


def _is_plain(shapes: tuple[Shape, ...]) -> bool:
    """Whether this is a convolution whose channels no factor divides."""
    return len(shapes[0]) > 2 and all(sum(s[m] > 1 for s in shapes) <= 1 for m in (0, 1))


def _real(axes: tuple[Axis, ...], size: Callable[[Axis], int]) -> tuple[Axis, ...]:
    return tuple(axis for axis in axes if size(axis) > 1)
