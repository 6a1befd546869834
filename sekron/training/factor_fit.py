"""Fit the factors of one layer to a weight, in a metric, by L-BFGS."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sekron.decomposition.decompose import reconstruct
from sekron.decomposition.metric import Metric
from sekron.layers.factorized import Factorized


def fit_factors(
    layer: Factorized, target: Tensor, metric: Metric, steps: int
) -> tuple[float, float]:
    """Fit the factors of a layer, in place, where that lowers the error.

    The error is `‖G^(p/2) (W − Ŵ) A^(p/2)‖² / ‖G^(p/2) W A^(p/2)‖²`, with the roots that the
    metric holds. It is computed in single precision at least, whatever the layer's dtype.

    Args:
        layer: Its factors are the start.
        target: The weight W, of shape `structure.weight_shape`.
        metric: Its input side is of whole patches, `(in · kernel, in · kernel)`, or of channels.
        steps: Of L-BFGS, at most.

    Returns:
        The error before and after; after is at most before.

    Reference:
        Liu, Nocedal, On the limited memory BFGS method for large scale optimization, 1989.
    """
    dtype = torch.promote_types(target.dtype, torch.float32)
    weight = target.detach().to(dtype)
    output, inputs = (_squared(m, weight) for m in (metric.output, metric.input))
    n_inputs = inputs.shape[-1]  # of a patch, or channels
    blocks = (*inputs.shape[:-2], output.shape[-1], n_inputs, -1)  # (groups), out, in, kernel

    def half_gradient(kernel: Tensor) -> Tensor:
        """Return half the gradient of the squared norm, with which that is an inner product."""
        rows = kernel.reshape(blocks).movedim(-1, -3)
        rows = rows * inputs if inputs.dim() == 1 else rows @ inputs.unsqueeze(-3)
        both = output[:, None] * rows if output.dim() == 1 else output.unsqueeze(-3) @ rows
        return both.movedim(-3, -1).reshape(kernel.shape)

    size = (weight * half_gradient(weight)).sum().clamp_min(1e-30)
    factors = [factor.detach().to(dtype).clone().requires_grad_() for factor in layer.factors()]
    optimizer = torch.optim.LBFGS(factors, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        lost = reconstruct(factors, layer.structure) - weight
        half = half_gradient(lost.detach())
        # The squared norm, and its gradient without a way back through the products above.
        return (2.0 * lost - lost.detach()).mul(half).sum() / size

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        torch.autograd.backward(value)
        return value

    with torch.no_grad():
        before = float(loss())
    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's has no types
    with torch.no_grad():
        after = float(loss())
        if not after < before:
            return before, before
        layer.set_factors([factor.to(target.dtype) for factor in factors])
    return before, after


def _squared(matrix: Tensor, weight: Tensor) -> Tensor:
    """Square a matrix or a diagonal, in the weight's dtype.

    What of it is subnormal there becomes zero: padded patches leave so much of it that products
    would take tens of times as long.
    """
    squared = (matrix.square() if matrix.dim() == 1 else matrix @ matrix).to(weight)
    return F.hardshrink(squared, torch.finfo(squared.dtype).tiny)
