"""The convolution around a kernel: what its cost depends on besides the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import index
from typing import cast

from sekron.structures.families import Shape


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of one convolution, per spatial axis; a linear layer has output positions only."""

    output_size: tuple[int, ...]
    input_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @classmethod
    def of(
        cls,
        weight_shape: Shape,
        output_size: tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
        input_size: tuple[int, ...] | None = None,
        groups: int = 1,
    ) -> Geometry:
        """Fill in what is not given; the input defaults to `output_size × stride`."""
        n_axes = len(weight_shape) - 2
        if n_axes and len(output_size) != n_axes:
            raise ValueError(
                f"`output_size` must have {n_axes} entries, one per kernel axis of "
                f"{weight_shape}, got {output_size}."
            )
        strides, dilations = per_axis(stride, n_axes), per_axis(dilation, n_axes)
        after = tuple(map(index, output_size))
        default = tuple(o * s for o, s in zip(after, strides, strict=False))
        before = default if input_size is None else tuple(map(index, input_size))
        return cls(after, before or default, strides, dilations, groups)


def per_axis(value: int | Sequence[int], n_axes: int) -> tuple[int, ...]:
    """Return a size for every axis, where one may stand for all, also within a sequence.

    Raises:
        ValueError: If there are others, but not one for every axis.
    """
    try:
        return (index(cast("int", value)),) * n_axes
    except TypeError:  # it is no whole number
        sizes = tuple(map(index, cast("Sequence[int]", value)))
    if len(sizes) not in (1, n_axes):
        raise ValueError(f"there must be a size for each of {n_axes} axes, or one, got {sizes}.")
    return sizes * n_axes if len(sizes) == 1 else sizes
