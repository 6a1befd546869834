"""The factorized linear layer: one matrix product per factor, the weight never rebuilt."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.decomposition.decompose import decompose
from sekron.layers.factorized import Factorized, drawing_aside, in_place_of
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.structures.structure import Structure


class SeKronLinear(Factorized):
    """A linear layer with a factorized weight.

    Args:
        structure: Factorization of a weight `(out, in)`.
        bias: Whether the layer has a bias, of shape `(out,)`.
        form: How to run it; default the order with the fewest FLOPs.
        device: Device of the parameters.
        dtype: Type of the parameters.

    Raises:
        ValueError: If the structure is not one of a linear layer.
    """

    def __init__(
        self,
        structure: Structure,
        *,
        bias: bool = True,
        form: Form = DEFAULT_FORM,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if len(structure.weight_shape) != 2 or structure.groups > 1:
            raise ValueError(f"a linear layer has a weight of 2 modes, no groups, got {structure}.")
        super().__init__(structure, form, (), (), bias, device, dtype)
        self.is_sequence = self.after is None and all(
            operation.is_direct and operation.groups == 1 for operation in self.operations
        )

    @classmethod
    def from_linear(
        cls, linear: nn.Linear, structure: Structure, form: Form = DEFAULT_FORM
    ) -> Self:
        """Decompose a linear layer; its weight and bias are copied, never shared.

        Raises:
            ValueError: If the structure has another weight shape.
        """
        with drawing_aside(linear):
            layer = cls.like(linear, structure, form)
        layer.set_factors(decompose(linear.weight, structure))
        return in_place_of(linear, layer)

    @classmethod
    def like(cls, linear: nn.Linear, structure: Structure, form: Form = DEFAULT_FORM) -> Self:
        """Make a layer in place of a linear one, with factors of its own."""
        layer = cls(
            structure,
            bias=linear.bias is not None,
            form=form,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        return layer.train(linear.training)

    def to_linear(self) -> nn.Linear:
        """Multiply the factors out to an ordinary linear layer, bias copied."""
        weight = self.dense_weight()
        linear = nn.Linear(
            weight.shape[1],
            weight.shape[0],
            bias=self.bias is not None,
            device="meta",  # where nothing is drawn for a weight that is filled at once
            dtype=weight.dtype,
        ).to_empty(device=weight.device)
        linear.weight.data.copy_(weight)
        return in_place_of(self, linear)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  as torch names it
        """Map `(…, in)` to `(…, out)`."""
        if self.is_sequence:  # asks nothing about the input, so that torch.fx can trace it
            x, (*first, last) = input, self.weights
            for weight in first:
                x = F.linear(x, weight)
            return F.linear(x, last, self.bias)
        leading = input.shape[:-1]
        bias = self.bias
        x = input.reshape(-1, input.shape[-1])
        rows = x.shape[0]
        for operation, weight in zip(self.operations, self.weights, strict=True):
            if operation.before is not None:
                x = operation.before(x)
            x = x.reshape(rows * operation.fold, x.shape[1] // operation.fold)
            fused = operation is self.operations[-1] and operation.fold == 1 and self.after is None
            fused = fused and operation.groups == 1
            if operation.groups == 1:
                x = F.linear(x, weight, bias if fused else None)
            else:
                blocks = x.reshape(len(x), operation.groups, weight.shape[1]).transpose(0, 1)
                matrices = weight.reshape(operation.groups, -1, weight.shape[1])
                x = torch.bmm(blocks, matrices.mT).transpose(0, 1).flatten(1)
            x = x.reshape(rows, operation.fold * x.shape[1])
        if self.after is not None:
            x = self.after(x)
        x = x if fused or bias is None else x + bias.to(x.dtype)
        return x.reshape(*leading, x.shape[-1])
