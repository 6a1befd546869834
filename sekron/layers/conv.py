"""The factorized convolution of any dimension: one native convolution per factor, never rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from sekron.decomposition.decompose import decompose
from sekron.layers.channels import along_channels, layout_of
from sekron.layers.factorized import Factorized, drawing_aside, in_place_of
from sekron.layers.operations import DEFAULT_FORM, Form, Operation
from sekron.structures.geometry import per_axis
from sekron.structures.structure import Structure

Sizes = int | tuple[int, ...]


NATIVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
"""Spatial axes -> convolution."""

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class SeKronConv(Factorized):
    """A convolution with a factorized kernel, equal to the dense one up to the error.

    Every factor is one native convolution. Where no factor divides the channels, the layer is a
    plain sequence of convolutions; else the channels are reshaped between them.

    Args:
        structure: Factorization of a kernel `(out, in, extents…)` with one to three extents, one
            for each group of the convolution.
        stride: As in `torch.nn.Conv1d` and its siblings.
        padding: As there: numbers, `"same"` or `"valid"`.
        dilation: As there.
        padding_mode: As there.
        bias: Whether the layer has a bias, of shape `(out,)`.
        form: How to run it; default the order with the fewest FLOPs.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: If the structure or an option is not one of a convolution.

    Example:
        >>> conv = nn.Conv1d(8, 16, 3, padding=1)
        >>> layer = SeKronConv.from_conv(conv, Structure.parse("chain:16x1x1,1x8x3@16"))
        >>> x = torch.randn(1, 8, 10)
        >>> torch.allclose(layer(x), conv(x), atol=1e-5)
        True
    """

    dense: ClassVar[dict[int, type[_ConvNd]]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
    """Spatial axes -> class of the dense layer."""

    options: ClassVar[tuple[str, ...]] = ("stride", "padding", "dilation", "padding_mode")
    """Attributes that the dense layer has too, and its constructor takes."""

    def __init__(
        self,
        structure: Structure,
        *,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        bias: bool = True,
        form: Form = DEFAULT_FORM,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.n_axes = len(structure.weight_shape) - 2
        if self.n_axes not in NATIVE:
            raise ValueError(f"a convolution has a weight of 3 to 5 modes, got {structure}.")
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"`padding_mode` must be one of {', '.join(PADDING_MODES)}, got {padding_mode!r}."
            )
        self.stride = per_axis(stride, self.n_axes)
        self.dilation = per_axis(dilation, self.n_axes)
        self.padding = padding
        self.padding_mode = padding_mode
        super().__init__(structure, form, self.stride, self.dilation, bias, device, dtype)
        self.margins = self._margins()
        self.paddings = tuple(self._native_padding(operation) for operation in self.operations)
        self.sequence = self._sequence()
        self._names = tuple(map(str, range(len(self.operations))))

    @classmethod
    def from_conv(cls, conv: _ConvNd, structure: Structure, form: Form = DEFAULT_FORM) -> Self:
        """Decompose a convolution; its weight and bias are copied, never shared.

        Raises:
            ValueError: If the structure has another weight shape or number of groups, or the layer
                is of another kind.
        """
        with drawing_aside(conv):
            layer = cls.like(conv, structure, form)
        layer.set_factors(decompose(conv.weight, structure))
        return in_place_of(conv, layer)

    @classmethod
    def like(cls, conv: _ConvNd, structure: Structure, form: Form = DEFAULT_FORM) -> Self:
        """Make a layer in place of a convolution, with factors of its own.

        Raises:
            ValueError: If the structure has another number of groups, or the layer is of another
                kind.
        """
        if not isinstance(conv, tuple(cls.dense.values())):
            kinds = ", ".join(kind.__name__ for kind in cls.dense.values())
            raise ValueError(f"{cls.__name__} stands for {kinds}, got {type(conv).__name__}.")
        if conv.groups != structure.groups:
            rule = f"the groups of the convolution, {conv.groups}"
            raise ValueError(f"the structure must have {rule}, got {structure}.")
        layer = cls(
            structure,
            **{name: getattr(conv, name) for name in cls.options},
            bias=conv.bias is not None,
            form=form,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        layout = layout_of(conv.weight)
        for weight in layer.weights:
            weight.data = weight.data.contiguous(memory_format=layout)
        return layer.train(conv.training)

    def to_conv(self) -> _ConvNd:
        """Multiply the factors out to an ordinary convolution, bias copied."""
        shape, groups = self.structure.weight_shape, self.structure.groups
        channels = shape[0], groups * shape[1]
        make: Callable[..., _ConvNd] = self.dense[self.n_axes]
        conv = make(
            channels[1 - self.output_mode],
            channels[self.output_mode],
            shape[2:],
            groups=groups,
            **{name: getattr(self, name) for name in self.options},
            bias=self.bias is not None,
            device="meta",  # where nothing is drawn for a weight that is filled at once
            dtype=self.weights[0].dtype,
        ).to_empty(device=self.weights[0].device)
        conv.weight.data.copy_(self.dense_weight())
        return in_place_of(self, conv)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        """Map `(N, in, sizes…)` or `(in, sizes…)` to `(N, out, sizes…)` or `(out, sizes…)`."""
        weights: Any = self.weights._parameters
        # A weight that is computed, by a mask or a parametrization, is no parameter of the list.
        if self.sequence is None or tuple(weights) != self._names:
            return self._folded(input)
        x, convolve = input, NATIVE[self.n_axes]
        # Only what a hand-written sequence does: microseconds count in small layers.
        *first, last = zip(self.sequence, weights.values(), strict=True)
        for (o, padding), weight in first:
            x = convolve(x, weight, None, o.stride, padding, o.dilation, o.groups)
        (o, padding), weight = last
        return convolve(x, weight, self.bias, o.stride, padding, o.dilation, o.groups)

    def _folded(self, x: Tensor) -> Tensor:
        """Run any structure in any form."""
        if x.dim() == 1 + self.n_axes:
            return self._folded(x.unsqueeze(0)).squeeze(0)
        batch, layout, bias = x.shape[0], layout_of(x), self.bias
        steps = zip(self.operations, self.paddings, self.weights, strict=True)
        for operation, native, weight in steps:
            if operation.before is not None:
                x = operation.before(x)
            if operation.fold > 1:
                channels = x.shape[1] // operation.fold
                x = x.reshape(batch * operation.fold, channels, *x.shape[2:])
            padding = native or (0,) * len(operation.pads)
            if native is None:
                x = self._padded(x, operation)
            fused = operation is self.operations[-1] and operation.fold == 1 and self.after is None
            if self.form.matmul and operation.is_pointwise and not any(padding):
                x = _pointwise(x, operation, weight, bias if fused else None)
            else:
                x = NATIVE[self.n_axes](
                    x,
                    operation.repeated(weight),
                    bias if fused else None,
                    operation.stride,
                    padding,
                    operation.dilation,
                    operation.groups,
                )
            if operation.fold > 1:
                x = x.reshape(batch, operation.fold * x.shape[1], *x.shape[2:])
        if self.after is not None:
            x = self.after(x)
        if not (fused or bias is None):
            x = x + along_channels(bias, x)
        # The next layer shall not run in a layout that nobody asked for.
        return x if layout is torch.contiguous_format else x.contiguous(memory_format=layout)

    def _margins(self) -> tuple[tuple[int, int], ...]:
        """Return how far each spatial axis is padded before and after."""
        kernel = self.structure.weight_shape[2:]
        if self.padding == "valid":
            return ((0, 0),) * len(kernel)
        if self.padding == "same":
            if any(s != 1 for s in self.stride):
                raise ValueError(f"padding='same' needs stride 1, got stride={self.stride}.")
            totals = [d * (k - 1) for d, k in zip(self.dilation, kernel, strict=True)]
            return tuple((total // 2, total - total // 2) for total in totals)
        if isinstance(self.padding, str):
            raise ValueError(f"padding must be numbers, 'same' or 'valid', got {self.padding!r}.")
        return tuple((p, p) for p in per_axis(self.padding, self.n_axes))

    def _sequence(self) -> tuple[tuple[Operation, tuple[int, ...]], ...] | None:
        """Return the convolutions with their paddings, where there is nothing between them."""
        sequence = []
        for operation, padding in zip(self.operations, self.paddings, strict=True):
            if padding is None or not operation.is_direct:
                return None
            if self.form.matmul and operation.is_pointwise and not any(padding):
                return None
            sequence.append((operation, padding))
        return None if self.after is not None else tuple(sequence)

    def _native_padding(self, operation: Operation) -> tuple[int, ...] | None:
        """Return the padding that the operation can do itself, None where it cannot."""
        margins = self._margins_of(operation)
        is_symmetric = self.padding_mode == "zeros" and all(low == high for low, high in margins)
        is_cropped = any(p and self._crops(axis) for axis, p in enumerate(operation.pads))
        if is_cropped or (any(map(any, margins)) and not is_symmetric):
            return None
        return tuple(low for low, _ in margins)

    def _margins_of(self, operation: Operation) -> list[tuple[int, int]]:
        return [m if p else (0, 0) for m, p in zip(self.margins, operation.pads, strict=True)]

    def _padded(self, x: Tensor, operation: Operation) -> Tensor:
        """Pad explicitly what the operation's own symmetric zero padding cannot express."""
        margins = self._margins_of(operation)
        if any(map(any, margins)):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, [side for margin in reversed(margins) for side in margin], mode)
        for axis in (a for a, p in enumerate(operation.pads) if p and self._crops(a)):
            extent = self.dilation[axis] * (self.structure.weight_shape[2 + axis] - 1) + 1
            surplus = (x.shape[2 + axis] - extent) % self.stride[axis]
            x = x.narrow(2 + axis, 0, x.shape[2 + axis] - surplus)
        return x

    def _crops(self, axis: int) -> bool:
        """Whether to drop rows that no output reads, as they would pass through several steps."""
        n_extended = sum(shape[2 + axis] > 1 for shape in self.structure.shapes)
        return n_extended > 1 and self.stride[axis] > 1


class SeKronConv2d(SeKronConv):
    """A 2-d convolution with a factorized kernel, as `SeKronConv`.

    Raises:
        ValueError: If the structure is not one of a 2-d convolution.

    Example:
        >>> conv = nn.Conv2d(8, 16, 3, padding=1)
        >>> layer = SeKronConv2d.from_conv2d(conv, Structure.parse("chain:16x1x3x1,1x8x1x3@24"))
        >>> x = torch.randn(1, 8, 10, 10)
        >>> torch.allclose(layer(x), conv(x), atol=1e-5)
        True
    """

    def __init__(self, structure: Structure, **options: Any) -> None:
        if len(structure.weight_shape) != 4:
            raise ValueError(f"a 2-d convolution has a weight of 4 modes, got {structure}.")
        super().__init__(structure, **options)

    @classmethod
    def from_conv2d(cls, conv: nn.Conv2d, structure: Structure, form: Form = DEFAULT_FORM) -> Self:
        """Decompose a convolution, as `from_conv`."""
        return cls.from_conv(conv, structure, form)

    def to_conv2d(self) -> nn.Conv2d:
        """Multiply the factors out, as `to_conv`."""
        conv = self.to_conv()
        assert isinstance(conv, nn.Conv2d)
        return conv


def _pointwise(x: Tensor, operation: Operation, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a convolution of extent 1 to `(N, groups·in, sizes…)` as one product per group."""
    n, groups, n_in, sizes = x.shape[0], operation.groups, weight.shape[1], x.shape[2:]
    matrix = operation.repeated(weight).reshape(-1, n_in)
    if groups == 1 and layout_of(x) is not torch.contiguous_format:
        return F.linear(x.movedim(1, -1), matrix, bias).movedim(-1, 1)
    # A view that all images share, where there are no groups: `repeat` would copy it for each.
    matrices = matrix.reshape(groups, -1, n_in).expand(n, -1, -1, -1).flatten(0, 1)
    y = torch.bmm(matrices, x.reshape(n * groups, n_in, prod(sizes)))
    y = y.reshape(n, len(matrix), *sizes)
    return y if bias is None else y + along_channels(bias, y)
