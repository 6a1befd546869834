"""The convolution around a kernel: what its cost depends on besides the kernel."""

from __future__ import annotations

from dataclasses import dataclass

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
        strides = (stride,) * n_axes if isinstance(stride, int) else tuple(stride)
        dilations = (dilation,) * n_axes if isinstance(dilation, int) else tuple(dilation)
        default = tuple(o * s for o, s in zip(output_size, strides, strict=False))
        return cls(tuple(output_size), tuple(input_size or default), strides, dilations, groups)
