"""The metric of a layer: which directions of its channels matter, by data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sekron.decomposition.systems import invert_each
from sekron.structures.structure import Structure

ERROR_POWER = 4
"""Power of the layers' errors in that of a calibrated plan, `error = Σ sensitivityₗ · errorₗ⁴`.

The divergence of a network's output grows about like this, rather than with the square: the layers
that come after it make up for a small error, but not for a large one."""


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """Two symmetric matrices around a weight, such that what they magnify matters more.

    The error of a factorization is `‖output · (W − Ŵ) · input‖ / ‖output · W · input‖`, where the
    matrices act along the two channel modes.

    A grouped convolution has one matrix per group, `(groups, …)`. For very many channels there is
    only the diagonal, `(out,)` or `(in,)`.

    Attributes:
        output: Shape `(out, out)`, fp64, positive definite.
        input: Shape `(in, in)`, fp64, positive definite.
        sensitivity: Factor of the layer's `error ** ERROR_POWER` in the error of a plan.
    """

    output: Tensor
    input: Tensor
    sensitivity: float = 1.0

    def whiten(self, weight: Tensor, modes: Sequence[bool] = (True, True)) -> Tensor:
        """Return the weight in fp64, its channels magnified by what matters.

        Args:
            weight: `(out, in, kernel…)`.
            modes: Whether the output channels, and the input channels, are magnified.
        """
        if self.output.dim() > 2:
            parts = zip(weight.chunk(len(self.output)), self.by_group(), strict=True)
            return torch.cat([metric.whiten(part, modes) for part, metric in parts])
        result = weight.double()
        if modes[0]:
            result = _along(self.output, result, 0)
        return _along(self.input, result, 1) if modes[1] else result

    def inverse(self) -> Metric:
        """Return the metric that takes back what this one magnifies."""
        return replace(self, output=_inverse(self.output), input=_inverse(self.input))

    def to(self, device: torch.device | str) -> Metric:
        """Return the metric on a device."""
        return replace(self, output=self.output.to(device), input=self.input.to(device))

    def by_group(self) -> list[Metric]:
        """Return the metric of the weight of each group."""
        pairs = zip(self.output, self.input, strict=True)
        return [replace(self, output=left, input=right) for left, right in pairs]

    def undo(self, factors: Sequence[Tensor], structure: Structure) -> tuple[Tensor, ...]:
        """Take the magnification out of the factors that hold whole channel modes.

        Args:
            factors: Factors of the whitened weight, as `decompose` returns them.
            structure: The factorization, of one group.
        """
        here = self.to(factors[0].device)
        return here.inverse().magnify([factor.double() for factor in factors], structure)

    def magnify(self, factors: Sequence[Tensor], structure: Structure) -> tuple[Tensor, ...]:
        """Return factors of the whitened weight, in their dtype, from those of the weight.

        A channel mode that several factors divide is left as it is.

        Args:
            factors: Factors of the weight, as `decompose` returns them.
            structure: The factorization, of one group.
        """
        results = list(factors)
        for mode, matrix in enumerate((self.output, self.input)):
            holders = [k for k, shape in enumerate(structure.shapes) if shape[mode] > 1]
            if len(holders) <= 1:
                k = holders[0] if holders else 0
                axis = results[k].dim() - len(structure.weight_shape) + mode
                results[k] = _along(matrix.to(results[k]), results[k], axis)
        return tuple(results)


def _along(matrix: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Multiply one axis of a tensor by a matrix, or by a diagonal."""
    if matrix.dim() == 1:
        return matrix.to(tensor.device).reshape(-1, *[1] * (tensor.dim() - 1 - axis)) * tensor
    product: Tensor = torch.tensordot(matrix.to(tensor.device), tensor, dims=([1], [axis]))
    return product.movedim(0, axis)


def _inverse(matrix: Tensor) -> Tensor:
    return matrix.reciprocal() if matrix.dim() == 1 else invert_each(matrix)
