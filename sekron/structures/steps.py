"""A factorized convolution as a list of steps, one factor each, in any order of the factors.

A step names the axes that it touches; nothing here depends on the values of the ranks. So one list
serves every rank of a structure, its cost and the layer that runs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from sekron.structures.families import Bonds, Shape, whole_channels

Axis = tuple[str, int]
"""`("c", k)` in-channel digit of factor k, `("f", k)` out-channel digit, `("r", b)` bond b."""

GROUP: Axis = ("a", 0)
"""The groups of a grouped convolution: every factor carries them, and they sort first."""

REMEMBERED = 2**15
"""Most steps, and most orders, that are kept, about ten times what a search of eight layers asks
for: a process may search one network after another."""


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
        return extended_axes(self.state, size) != extended_axes(self.kept + self.summed, size)


@lru_cache(REMEMBERED)
def steps(shapes: tuple[Shape, ...], bonds: Bonds, order: tuple[int, ...]) -> tuple[Step, ...]:
    """Return the steps that apply the factors in that order."""
    n_axes = len(shapes[0]) - 2
    is_whole = keeps_channels_whole(shapes)
    ends = {b: i for i, k in enumerate(order) for b in bonds[k]}
    extended = [[i for i, k in enumerate(order) if shapes[k][2 + a] > 1] for a in range(n_axes)]
    state: tuple[Axis, ...] = (GROUP, *(("c", k) for k in range(len(shapes))))
    sequence = []
    for i, k in enumerate(order):
        bond_axes = {GROUP, *(("r", b) for b in bonds[k])}
        summed = {("r", b) for b in bonds[k] if ends[b] == i} | {("c", k)}
        groups = tuple(axis for axis in state if axis in bond_axes - summed)
        batch = tuple(axis for axis in state if axis not in bond_axes | summed)
        kept = tuple(axis for axis in state if axis not in summed)
        # The axis that is summed first stands last, so that few steps need a permutation.
        # Ties go by the bond: a set's own order is another one in every process.
        new = sorted(bond_axes - set(state), key=lambda axis: (-ends[axis[1]], axis[1]))
        sequence.append(
            Step(
                factor=k,
                state=state,
                kept=kept if is_whole else batch + groups,
                groups=groups,
                summed=tuple(axis for axis in state if axis in summed),
                new=(("f", k), *new),
                pads=tuple(i == (e[0] if e else 0) for e in extended),
                strides=tuple(i == (e[-1] if e else 0) for e in extended),
            )
        )
        state = sequence[-1].kept + sequence[-1].new
    return tuple(sequence)


def final_state(steps: tuple[Step, ...]) -> tuple[Axis, ...]:
    """Return the axes of the channels after the last step: the out-channel digits."""
    return steps[-1].kept + steps[-1].new


def axis_size(
    shapes: tuple[Shape, ...], ranks: tuple[int, ...], groups: int
) -> Callable[[Axis], int]:
    """Return the function from an axis of a structure to its size."""

    def size(axis: Axis) -> int:
        if axis == GROUP:
            return groups
        if axis[0] == "r":
            return ranks[axis[1]]
        return shapes[axis[1]][0 if axis[0] == "f" else 1]

    return size


def step_dilation(shapes: tuple[Shape, ...], factor: int, axis: int, dilation: int) -> int:
    """Return the dilation of a factor: its digit counts in units of all later digits."""
    return dilation * prod(shape[2 + axis] for shape in shapes[factor + 1 :])


def keeps_channels_whole(shapes: tuple[Shape, ...]) -> bool:
    """Whether this is a convolution whose channels no factor divides."""
    return len(shapes[0]) > 2 and all(whole_channels(shapes))


def extended_axes(axes: tuple[Axis, ...], size: Callable[[Axis], int]) -> tuple[Axis, ...]:
    """Return the axes that are larger than 1: the others can stand anywhere."""
    return tuple(axis for axis in axes if size(axis) > 1)
