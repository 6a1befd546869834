"""The factorized transposed convolution: the adjoint of the factorized one, step by step back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd

from sekron.layers.conv import SeKronConv, Sizes, along_channels, layout_of
from sekron.layers.operations import Operation
from sekron.structures.structure import Structure

NATIVE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
"""Spatial axes -> transposed convolution."""

Margins = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class _Span:
    """Sizes of the spatial axes around one operation of the convolution that is gone back.

    Attributes:
        before: Without its padding.
        padded: With it.
        read: Without what no output reads.
        after: Of its output.
        margins: Of its padding, before and after each axis.
    """

    before: tuple[int, ...]
    padded: tuple[int, ...]
    read: tuple[int, ...]
    after: tuple[int, ...]
    margins: Margins


class SeKronConvTranspose(SeKronConv):
    """A transposed convolution with a factorized kernel, equal to the dense one up to the error.

    Its weight is that of a convolution from its outputs to its inputs, whose steps are gone back,
    each by one native transposed convolution.

    Args:
        structure: Factorization of a kernel `(in, out, extents…)` with one to three extents.
        output_padding: As in `torch.nn.ConvTranspose1d` and its siblings.
        options: As of `SeKronConv`, but for `padding_mode`.

    Raises:
        ValueError: If the structure is not one of a convolution.

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
        self.output_padding = self._per_axis(output_padding)

    def forward(
        self,
        input: Tensor,  # noqa: A002  as torch names it
        output_size: Sequence[int] | None = None,
    ) -> Tensor:
        """Map `(N, in, sizes…)` or `(in, sizes…)` to `(N, out, sizes…)` or `(out, sizes…)`.

        Args:
            input: As for the dense layer.
            output_size: Sizes that are wanted, of the spatial axes or of all; default what
                `output_padding` says.
        """
        x = input
        if x.dim() == 1 + self.n_axes:
            return self.forward(x.unsqueeze(0), output_size).squeeze(0)
        batch, layout = x.shape[0], layout_of(x)
        if self.after is not None:
            x = self.after.inverse(x)
        least = self._least(tuple(x.shape[2:]))
        whole = self._whole(least, output_size)
        margins, beyond = self._ends(least, whole)
        spans = self._spans(tuple(n - b for n, b in zip(whole, beyond, strict=True)), margins)
        steps = zip(self.operations, self.weights, spans, strict=True)
        for operation, weight, span in reversed(list(steps)):
            if operation.fold > 1:
                channels = x.shape[1] // operation.fold
                x = x.reshape(batch * operation.fold, channels, *x.shape[2:])
            x = self._undone(x, operation, operation.repeated(weight), span)
            if operation.fold > 1:
                x = x.reshape(batch, operation.fold * x.shape[1], *x.shape[2:])
            if operation.before is not None:
                x = operation.before.inverse(x)
        if any(beyond):
            x = F.pad(x, [side for n in reversed(beyond) for side in (0, n)])
        if self.bias is not None:
            x = x + along_channels(self.bias, x)
        # What comes next shall not run in a layout that nobody asked for.
        return x if layout is torch.contiguous_format else x.contiguous(memory_format=layout)

    def _least(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes that the output has at least."""
        kernel, margins = self.structure.weight_shape[2:], self.margins
        axes = zip(sizes, self.stride, self.dilation, kernel, margins, strict=True)
        return tuple((n - 1) * s + d * (k - 1) + 1 - sum(m) for n, s, d, k, m in axes)

    def _whole(self, least: tuple[int, ...], output_size: Sequence[int] | None) -> tuple[int, ...]:
        """Return the sizes of the output."""
        if output_size is None:
            return tuple(n + more for n, more in zip(least, self.output_padding, strict=True))
        wanted = tuple(output_size)[-self.n_axes :]
        most = zip(least, self.stride, self.dilation, strict=True)
        if any(not 0 <= w - n < max(s, d) for w, (n, s, d) in zip(wanted, most, strict=True)):
            raise ValueError(
                f"`output_size` must be {least} or larger by less than the stride, got {wanted}."
            )
        return wanted

    def _ends(self, least: tuple[int, ...], whole: tuple[int, ...]) -> tuple[Margins, list[int]]:
        """Return the margins of an output of these sizes, and how many rows lie beyond all input.

        More rows than the stride steps over, which a large dilation allows, are rows that the
        padding would have cropped, and then zeros.
        """
        margins, beyond = [], []
        axes = zip(least, whole, self.stride, self.margins, strict=True)
        for n, wanted, stride, (low, high) in axes:
            excess = max(wanted - (n + stride - 1), 0)
            margins.append((low, high - min(excess, high)))
            beyond.append(excess - min(excess, high))
        return tuple(margins), beyond

    def _spans(self, whole: tuple[int, ...], ends: Margins) -> list[_Span]:
        """Follow the sizes through the convolution from the output to the input."""
        spans, before = [], whole
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
        """Rows at the end that the operation drops because no output reads them."""
        if not (operation.pads[axis] and self._crops(axis)):
            return 0
        extent = self.dilation[axis] * (self.structure.weight_shape[2 + axis] - 1) + 1
        return (padded - extent) % self.stride[axis]

    def _undone(self, x: Tensor, operation: Operation, weight: Tensor, span: _Span) -> Tensor:
        """Apply the adjoint of an operation, its padding and its cropping."""
        extents = self._extents(operation)
        least = [
            (n - 1) * s + e for n, s, e in zip(span.after, operation.stride, extents, strict=True)
        ]
        more = tuple(n - m for n, m in zip(span.read, least, strict=True))
        low = [margin[0] for margin in span.margins]
        is_native = span.read == span.padded and all(low == high for low, high in span.margins)
        x = NATIVE[self.n_axes](
            x,
            weight,
            None,
            operation.stride,
            tuple(low) if is_native else 0,
            more,
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
        """Rows that one output of the operation reads, per axis."""
        kernel = operation.weight_shape[2:]
        return tuple(d * (k - 1) + 1 for d, k in zip(operation.dilation, kernel, strict=True))
