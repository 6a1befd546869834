"""The metric of a layer: which directions of its channels matter, by data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sekron.structures.structure import Structure

ERROR_POWER = 4
"""With which the relative error of a layer in its metric counts in that of a plan.

The divergence of a network's output grows about so, rather than with the square: small errors of
a layer are made up for by what comes after it, large ones are not."""


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """Two symmetric matrices around a weight, such that what they magnify matters more.

    The error of a factorization is measured on `output · W · input`, along the two channel modes.

    Those of a grouped convolution hold one matrix per group, `(groups, …)`; of very many channels
    there is the diagonal alone, `(out,)` or `(in,)`.

    Attributes:
        output: Shape `(out, out)`, fp64, positive definite.
        input: Shape `(in, in)`, fp64, positive definite.
        sensitivity: What the layer's error, to the power of `ERROR_POWER`, counts in a plan's.
    """

    output: Tensor
    input: Tensor
    sensitivity: float = 1.0

    def whiten(self, weight: Tensor, modes: Sequence[bool] = (True, True)) -> Tensor:
        """Return the weight in fp64, its channels magnified by what matters.

        Args:
            weight: `(out, in, kernel…)`.
            modes: Whether the output and the input channels are.
        """
        if self.output.dim() > 2:
            parts = zip(weight.chunk(len(self.output)), self.by_group(), strict=True)
            return torch.cat([metric.whiten(own, modes) for own, metric in parts])
        result = weight.double()
        if modes[0]:
            result = _along(self.output, result, 0)
        return _along(self.input, result, 1) if modes[1] else result

    def unwhiten(self, weight: Tensor) -> Tensor:
        """Undo `whiten` of both modes."""
        inverse = replace(self, output=_inverse(self.output), input=_inverse(self.input))
        return inverse.whiten(weight)

    def by_group(self) -> list[Metric]:
        """Return the metric of the weight of each group."""
        pairs = zip(self.output, self.input, strict=True)
        return [replace(self, output=output, input=own) for output, own in pairs]

    def undo(self, factors: Sequence[Tensor], structure: Structure) -> tuple[Tensor, ...]:
        """Take the magnification out of the factors that hold whole channel modes.

        Args:
            factors: Of the whitened weight, as `decompose` returns them.
            structure: The factorization.
        """
        results = list(factors)
        for mode, matrix in enumerate((self.output, self.input)):
            holders = [k for k, shape in enumerate(structure.shapes) if shape[mode] > 1]
            if len(holders) <= 1:
                k = holders[0] if holders else 0
                axis = results[k].dim() - len(structure.weight_shape) + mode
                results[k] = _along(_inverse(matrix), results[k].double(), axis)
        return tuple(results)


def whole_channels(structure: Structure) -> tuple[bool, bool]:
    """Return whether no two factors divide the output channels, and the input channels."""
    whole = [sum(shape[mode] > 1 for shape in structure.shapes) <= 1 for mode in (0, 1)]
    return whole[0], whole[1]


def _along(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Multiply one axis of a tensor by a matrix, or by a diagonal."""
    if matrix.dim() == 1:
        return matrix.to(tensor.device).reshape(-1, *[1] * (tensor.dim() - 1 - axis)) * tensor
    product: Tensor = torch.tensordot(matrix.to(tensor.device), tensor, dims=([1], [axis]))
    return product.movedim(0, axis)


def _inverse(matrix: Tensor) -> Tensor:
    return matrix.reciprocal() if matrix.dim() == 1 else torch.linalg.inv(matrix)
