"""The base of every layer with a factorized weight."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from math import prod
from typing import TypeVar

import torch
from torch import Tensor, nn

from sekron.decomposition.decompose import check_factors, reconstruct
from sekron.layers.operations import Form, emit
from sekron.structures.structure import Structure

Layer = TypeVar("Layer", bound=nn.Module)

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
)
"""Attributes in which torch keeps the hooks of a module."""


class Factorized(nn.Module):
    """The base of the layers: weights in the layout that runs, and their way back to factors."""

    output_mode = 0
    """Mode of the weight that holds the output channels."""

    def __init__(
        self,
        structure: Structure,
        form: Form,
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        bias: bool,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        self.structure = structure
        self.form = form
        self.order = structure.cheapest_order(stride) if form.order is None else form.order
        if sorted(self.order) != list(range(structure.length)):
            raise ValueError(
                f"`order` must name each of the {structure.length} factors once, got {form.order}."
            )
        self.operations, self.after = emit(structure, self.order, stride, dilation)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(operation.weight_shape, device=device, dtype=dtype))
            for operation in self.operations
        )
        self.bias: nn.Parameter | None = None
        if bias:
            n_out = structure.weight_shape[self.output_mode]
            n_out *= structure.groups if self.output_mode else 1  # mode 0 holds all groups
            self.bias = nn.Parameter(torch.empty(n_out, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw factors whose product has the variance of a freshly made dense layer."""
        fan_in = prod(self.structure.weight_shape[1:])
        n_terms = prod(self.structure.ranks)
        for weight in self.weights:
            nn.init.normal_(weight, std=(3 * fan_in * n_terms) ** (-0.5 / self.structure.length))
        if self.bias is not None:
            nn.init.uniform_(self.bias, -(fan_in**-0.5), fan_in**-0.5)

    def factors(self) -> tuple[Tensor, ...]:
        """Return the factors as `decompose` gives them: `(ranks of the bonds…, f, c, *kernel)`."""
        pairs = zip(self.operations, self.weights, strict=True)
        factors = {operation.factor: operation.unpack(weight) for operation, weight in pairs}
        return tuple(factors[k] for k in range(self.structure.length))

    def set_factors(self, factors: Sequence[Tensor]) -> None:
        """Copy factors, as `decompose` gives them, into the layer.

        Raises:
            ValueError: If they have other shapes.
        """
        check_factors(factors, self.structure)
        with torch.no_grad():
            for operation, weight in zip(self.operations, self.weights, strict=True):
                weight.copy_(operation.pack(factors[operation.factor]))

    def dense_weight(self) -> Tensor:
        """Multiply the factors out to the weight, of shape `structure.weight_shape`."""
        return reconstruct(self.factors(), self.structure)

    def extra_repr(self) -> str:
        """Show the structure in the printed module."""
        form = f"order={self.order}, matmul={self.form.matmul}"
        return f"{self.structure}, {form}, bias={self.bias is not None}"


def drawing_aside(module: nn.Module) -> AbstractContextManager[None]:
    """Take nothing from the caller's random numbers for a layer that is made to be filled.

    Args:
        module: In whose place, and on whose device, it is made.
    """
    weight = getattr(module, "weight", None)
    devices = [weight.device] if isinstance(weight, Tensor) and weight.is_cuda else []
    return torch.random.fork_rng(devices)


def in_place_of(source: nn.Module, target: Layer) -> Layer:
    """Take over all that does not depend on how the weight is stored, and return the target.

    That is the bias, which parameters need gradients, and what `take_over` does.
    """
    if isinstance(source.bias, Tensor) and isinstance(target.bias, Tensor):
        target.bias.data.copy_(source.bias)
    needs_grad = {
        is_bias: all(
            p.requires_grad for n, p in source.named_parameters() if (n == "bias") is is_bias
        )
        for is_bias in (False, True)
    }
    for name, parameter in target.named_parameters():
        parameter.requires_grad_(needs_grad[name == "bias"])
    return take_over(source, target)


def take_over(source: nn.Module, target: Layer) -> Layer:
    """Take over all that is not a parameter, and return the target.

    That is the train flag, the hooks of the forward and the backward pass, and buffers that
    somebody has given to the layer.
    """
    for hooks in HOOKS:
        getattr(target, hooks).update(getattr(source, hooks))
    target._is_full_backward_hook = source._is_full_backward_hook
    for name, buffer in source.named_buffers(recurse=False):
        is_kept = name not in source._non_persistent_buffers_set
        target.register_buffer(name, buffer.clone(), persistent=is_kept)
    return target.train(source.training)
