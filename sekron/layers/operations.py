"""Steps made concrete: which native operation runs, on which view, with which weight layout."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

from sekron.structures.steps import (
    GROUP,
    Axis,
    Step,
    axis_size,
    final_state,
    keeps_channels_whole,
    step_dilation,
    steps,
)
from sekron.structures.structure import Structure


@dataclass(frozen=True, slots=True)
class Form:
    """One of the ways to run a structure; all of them compute the same.

    Args:
        order: Order in which the factors are applied; None for the one with the fewest FLOPs.
        matmul: Whether convolutions of extent 1 run as matrix products.
    """

    order: tuple[int, ...] | None = None
    matmul: bool = False

    def __str__(self) -> str:
        if self == DEFAULT_FORM:
            return "default"
        order = "default" if self.order is None else f"factors {', '.join(map(str, self.order))}"
        return order + (", matrix products" if self.matmul else "")


DEFAULT_FORM = Form()


@dataclass(frozen=True, slots=True)
class Rearrangement:
    """A permutation of the axes that make up the channels.

    Attributes:
        sizes: Sizes of the axes before the permutation, slowest first.
        permutation: Old position of the axis at each new position.
    """

    sizes: tuple[int, ...]
    permutation: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """Permute the channels of `x`, of shape `(batch, channels, *spatial)`."""
        spatial = x.shape[2:]
        axes = [1 + axis for axis in self.permutation]
        split = x.reshape(x.shape[0], *self.sizes, *spatial)
        rest = range(1 + len(axes), split.dim())
        return split.permute(0, *axes, *rest).reshape(x.shape[0], prod(self.sizes), *spatial)

    @property
    def inverse(self) -> Rearrangement:
        """The permutation that undoes this one."""
        order = range(len(self.sizes))
        return Rearrangement(
            tuple(self.sizes[axis] for axis in self.permutation),
            tuple(sorted(order, key=lambda axis: self.permutation[axis])),
        )


@dataclass(frozen=True, slots=True)
class Operation:
    """One native grouped convolution (or matrix product) that applies one factor.

    Attributes:
        factor: Index of the factor.
        before: Permutation of the channels before the step, or None where it needs none.
        fold: How many channels are folded into the batch; 1 for none.
        groups: Groups of the convolution.
        factor_axes: Order in which the stored weight holds the axes of the factor.
        factor_sizes: Sizes of these axes, in that order.
        weight_shape: Shape of the stored weight, `(groups·out, in, *kernel)`.
        repeats: None, or `(shape, expanded)`: where the stored weight serves several groups.
        stride: Stride of this operation, per spatial axis.
        dilation: Dilation of this operation, per spatial axis.
        pads: Whether the layer's padding belongs to this operation, per spatial axis.
    """

    factor: int
    before: Rearrangement | None
    fold: int
    groups: int
    factor_axes: tuple[int, ...]
    factor_sizes: tuple[int, ...]
    weight_shape: tuple[int, ...]
    repeats: tuple[tuple[int, ...], tuple[int, ...]] | None
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[bool, ...]

    @property
    def is_direct(self) -> bool:
        """Whether the operation takes the tensor and the stored weight as they are."""
        return self.before is None and self.fold == 1 and self.repeats is None

    @property
    def is_pointwise(self) -> bool:
        """Whether the operation is one matrix product per place and group."""
        return prod(self.weight_shape[2:]) == 1 and prod(self.stride) == 1

    def pack(self, factor: Tensor) -> Tensor:
        """Return the weight of the operation from the factor `(ranks…, f, c, *kernel)`."""
        return factor.permute(self.factor_axes).reshape(self.weight_shape).contiguous()

    def unpack(self, weight: Tensor) -> Tensor:
        """Undo `pack`."""
        inverse = sorted(range(len(self.factor_axes)), key=lambda i: self.factor_axes[i])
        return weight.reshape(self.factor_sizes).permute(inverse).contiguous()

    def repeated(self, weight: Tensor) -> Tensor:
        """Return the weight as the convolution takes it, one copy per group."""
        if self.repeats is None:
            return weight
        shape, expanded = self.repeats
        return weight.reshape(shape).expand(expanded).reshape(-1, *self.weight_shape[1:])


def emit(
    structure: Structure,
    order: tuple[int, ...],
    stride: tuple[int, ...] = (),
    dilation: tuple[int, ...] = (),
) -> tuple[tuple[Operation, ...], Rearrangement | None]:
    """Return the operations of a layer and the permutation of its output channels, if any."""
    sequence = steps(structure.shapes, structure.bonds, order)
    fold = not keeps_channels_whole(structure.shapes)
    operations = tuple(_operation(structure, step, fold, stride, dilation) for step in sequence)
    state = final_state(sequence)
    return operations, _rearrangement(structure, state, tuple(sorted(state)))


def _operation(
    structure: Structure,
    step: Step,
    fold: bool,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Operation:
    size = axis_size(structure.shapes, structure.ranks, structure.groups)
    kernel = structure.shapes[step.factor][2:]
    batch = [axis for axis in step.kept if axis not in step.groups]
    axes: list[Axis] = [GROUP] if structure.groups > 1 else []
    axes += [("r", b) for b in structure.bonds[step.factor]]
    axes += [("f", step.factor), ("c", step.factor)]
    stored_axes = [axis for axis in (*step.groups, *step.new, *step.summed) if axis in axes]
    n_batch = prod(map(size, batch))
    n_out = prod(map(size, step.new))
    n_in = prod(map(size, step.summed))
    repeats = None
    if n_batch > 1 and not fold:
        expanded = [size(axis) for axis in step.kept]
        shape = [1 if axis in batch else size(axis) for axis in step.kept]
        block = (n_out, n_in, *kernel)
        repeats = ((*shape, *block), (*expanded, *block))
    return Operation(
        factor=step.factor,
        before=_rearrangement(structure, step.state, step.kept + step.summed),
        fold=n_batch if fold else 1,
        groups=prod(map(size, step.groups)) * (1 if fold else n_batch),
        factor_axes=(
            *(axes.index(axis) for axis in stored_axes),
            *range(len(axes), len(axes) + len(kernel)),
        ),
        factor_sizes=(*map(size, stored_axes), *kernel),
        weight_shape=(prod(map(size, step.groups)) * n_out, n_in, *kernel),
        repeats=repeats,
        stride=tuple(s if applies else 1 for s, applies in zip(stride, step.strides, strict=True)),
        # Along an axis of extent 1 a dilation means nothing, yet sends torch to slow kernels.
        dilation=tuple(
            step_dilation(structure.shapes, step.factor, axis, d) if kernel[axis] > 1 else 1
            for axis, d in enumerate(dilation)
        ),
        pads=step.pads,
    )


def _rearrangement(
    structure: Structure, source: tuple[Axis, ...], target: tuple[Axis, ...]
) -> Rearrangement | None:
    size = axis_size(structure.shapes, structure.ranks, structure.groups)
    axes = [axis for axis in source if size(axis) > 1]
    permutation = tuple(axes.index(axis) for axis in target if size(axis) > 1)
    if permutation == tuple(range(len(axes))):
        return None
    return Rearrangement(tuple(map(size, axes)), permutation)
