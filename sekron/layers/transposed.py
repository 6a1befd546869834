"""The factorized transposed convolution: the adjoint of the factorized one, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from sekron.layers.channels import along_channels, layout_of
from sekron.layers.conv import SeKronConv, Sizes
from sekron.layers.operations import Operation
from sekron.structures.geometry import per_axis
from sekron.structures.structure import Structure

NATIVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""Spatial axes -> transposed convolution."""

Margins = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Sizes of the spatial axes around one operation of the convolution.

    Attributes:
        before: Sizes of its input, without padding.
        padded: Sizes of its input, with padding.
        read: Sizes of its padded input without the rows that no output reads.
        after: Sizes of its output.
        margins: Padding before and after each axis.
    """

    before: tuple[int, ...]
    padded: tuple[int, ...]
    read: tuple[int, ...]
    after: tuple[int, ...]
    margins: Margins


class SeKronConvTranspose(SeKronConv):
    """A transposed convolution with a factorized kernel, equal to the dense one up to the error.

    Its weight is that of a convolution from its outputs to its inputs. The layer goes through the
    steps of that convolution backwards, each as one native transposed convolution.

    Args:
        structure: Factorization of a kernel `(in, out, extents…)` with one to three extents.
        output_padding: As in `torch.nn.ConvTranspose1d` and its siblings.
        options: As of `SeKronConv`, but for `padding_mode`.

    Raises:
        ValueError: If the structure is not one of a convolution, the padding is not of zeros, or
            there is as much output padding as stride and dilation or more.

    Example:
        >>> conv = nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1)
        >>> structure = Structure.parse("chain:8x1x4x1,1x16x1x4@32")
        >>> layer = SeKronConvTranspose.from_conv(conv, structure)
        >>> x = torch.randn(1, 8, 10, 10)
        >>> torch.allclose(layer(x), conv(x), atol=1e-5)
        True
    """

    dense: ClassVar[dict[int, type[_ConvNd]]] = {
        1: nn.ConvTranspose1d,
        2: nn.ConvTranspose2d,
        3: nn.ConvTranspose3d,
    }
    options = ("stride", "padding", "output_padding", "dilation")
    output_mode = 1

    def __init__(self, structure: Structure, *, output_padding: Sizes = 0, **options: Any) -> None:
        super().__init__(structure, **options)
        if self.padding_mode != "zeros":
            raise ValueError(
                f"a transposed convolution has `padding_mode` zeros, got {self.padding_mode!r}."
            )
        self.output_padding = per_axis(output_padding, self.n_axes)
        axes = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(not 0 <= n < max(s, d) for n, s, d in axes):
            raise ValueError(
                "`output_padding` must be below the stride or the dilation, got "
                f"{self.output_padding}, stride={self.stride}, dilation={self.dilation}."
            )

    def forward(
        self,
        input: Tensor,  # noqa: A002  as torch names it
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Map `(N, in, sizes…)` or `(in, sizes…)` to `(N, out, sizes…)` or `(out, sizes…)`.

        Args:
            input: As for the dense layer.
            output_size: Sizes of the output, of the spatial axes or of all; default what
                `output_padding` says.
        """
        x = input
        if x.dim() == 1 + self.n_axes:
            return self.forward(x.unsqueeze(0), output_size).squeeze(0)
        batch, layout = x.shape[0], layout_of(x)
        if self.after is not None:
            x = self.after.inverse(x)
        smallest = self._smallest_sizes(tuple(x.shape[2:]))
        sizes = self._sizes(smallest, output_size)
        margins, n_zeros = self._ends(smallest, sizes)
        spans = self._spans(tuple(n - b for n, b in zip(sizes, n_zeros, strict=True)), margins)
        steps = zip(self.operations, self.weights, spans, strict=True)
        for operation, weight, span in reversed(list(steps)):
            if operation.fold > 1:
                channels = x.shape[1] // operation.fold
                x = x.reshape(batch * operation.fold, channels, *x.shape[2:])
            x = self._adjoint(x, operation, operation.repeated(weight), span)
            if operation.fold > 1:
                x = x.reshape(batch, operation.fold * x.shape[1], *x.shape[2:])
            if operation.before is not None:
                x = operation.before.inverse(x)
        if any(n_zeros):
            x = F.pad(x, [side for n in reversed(n_zeros) for side in (0, n)])
        if self.bias is not None:
            x = x + along_channels(self.bias, x)
        # The next layer shall not run in a layout that nobody asked for.
        return x if layout is torch.contiguous_format else x.contiguous(memory_format=layout)

    def _smallest_sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the least sizes of the output."""
        kernel, margins = self.structure.weight_shape[2:], self.margins
        axes = zip(sizes, self.stride, self.dilation, kernel, margins, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 - sum(m) for n, s, d, k, m in axes)

    def _sizes(
        self, smallest: tuple[int, ...], output_size: Sequence[int] | None
    ) -> tuple[int, ...]:
        """Return the sizes of the output."""
        if output_size is None:
            return tuple(n + p for n, p in zip(smallest, self.output_padding, strict=True))
        sizes = tuple(output_size)[-self.n_axes :]
        axes = zip(smallest, self.stride, self.dilation, strict=True)
        if any(not 0 <= w - n < max(s, d) for w, (n, s, d) in zip(sizes, axes, strict=True)):
            raise ValueError(
                f"`output_size` must be {smallest} or larger by less than the stride, got {sizes}."
            )
        return sizes

    def _ends(self, smallest: tuple[int, ...], sizes: tuple[int, ...]) -> tuple[Margins, list[int]]:
        """Return the margins of an output of these sizes, and how many rows are zeros at its end.

        A large dilation allows more rows than the stride steps over. They are first those that the
        padding would have cropped, then zeros.
        """
        margins, n_zeros = [], []
        axes = zip(smallest, sizes, self.stride, self.margins, strict=True)
        for n, size, stride, (low, high) in axes:
            excess = max(size - (n + stride - 1), 0)
            margins.append((low, high - min(excess, high)))
            n_zeros.append(excess - min(excess, high))
        return tuple(margins), n_zeros

    def _spans(self, sizes: tuple[int, ...], ends: Margins) -> list[_Span]:
        """Follow the sizes through the convolution, from the output of this layer to its input."""
        spans, before = [], sizes
        for operation in self.operations:
            margins = tuple(m if p else (0, 0) for m, p in zip(ends, operation.pads, strict=True))
            padded = tuple(n + sum(m) for n, m in zip(before, margins, strict=True))
            read = tuple(n - self._surplus(operation, a, n) for a, n in enumerate(padded))
            extents = self._extents(operation)
            after = tuple(
                (n - e) // s + 1 for n, e, s in zip(read, extents, operation.stride, strict=True)
            )
            spans.append(_Span(before, padded, read, after, margins))
            before = after
        return spans

    def _surplus(self, operation: Operation, axis: int, padded: int) -> int:
        """Return how many rows at the end the operation drops because no output reads them."""
        if not (operation.pads[axis] and self._crops(axis)):
            return 0
        extent = self.dilation[axis] * (self.structure.weight_shape[2 + axis] - 1) + 1
        return (padded - extent) % self.stride[axis]

    def _adjoint(self, x: Tensor, operation: Operation, weight: Tensor, span: _Span) -> Tensor:
        """Apply the adjoint of an operation, its padding and its cropping."""
        extents = self._extents(operation)
        sizes = [
            (n - 1) * s + e for n, s, e in zip(span.after, operation.stride, extents, strict=True)
        ]
        output_padding = tuple(n - m for n, m in zip(span.read, sizes, strict=True))
        low = [margin[0] for margin in span.margins]
        is_native = span.read == span.padded and all(low == high for low, high in span.margins)
        x = NATIVE[self.n_axes](
            x,
            weight,
            None,
            operation.stride,
            tuple(low) if is_native else 0,
            output_padding,
            operation.groups,
            operation.dilation,
        )
        if is_native:
            return x
        sides = [
            (-margin, before + margin - read)
            for margin, before, read in zip(low, span.before, span.read, strict=True)
        ]
        return F.pad(x, [side for pair in reversed(sides) for side in pair])

    @staticmethod
    def _extents(operation: Operation) -> tuple[int, ...]:
        """Return how many rows one output of the operation reads, per axis."""
        kernel = operation.weight_shape[2:]
        return tuple(d * (k - 1) + 1 for d, k in zip(operation.dilation, kernel, strict=True))
