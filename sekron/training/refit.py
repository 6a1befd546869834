"""Fit the factors of every layer, each for itself, in the metric of its inputs and gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.calibration.metrics import metric_of
from sekron.calibration.moments import moments
from sekron.decomposition.decompose import reconstruct
from sekron.decomposition.metric import Metric
from sekron.forward import Batches, inputs_of
from sekron.layers.factorized import Factorized
from sekron.network.counterparts import paired
from sekron.network.surgery import weight_of
from sekron.progress import bar
from sekron.training.batch_norm import norms_with_statistics, recalibrate

LARGEST_PATCH = 2304
"""Most numbers that a kernel may take in for its input to be known by patches, not by channels.

Their second moments are a matrix of that size; the root of one twice as large takes a minute."""


def refit(
    model: nn.Module, dense: nn.Module, batches: Batches, *, steps: int = 100, progress: bool = True
) -> float:
    """Fit the factors of a compressed network, in place, in the metric of whole patches.

    A decomposition measures errors along channels; here the second moments of all that a kernel
    sees at a position count, for any structure. Nothing passes through the compressed network, so
    it takes seconds, or minutes where kernels see thousands of numbers. Batch norm is re-estimated
    afterwards, if anything was gained.

    Args:
        model: From `Plan.apply` on `dense`; its factors and batch-norm buffers are changed.
        dense: Not modified; a layer that is factorized in it too stays as it is.
        batches: Unlabelled inputs, or `(input, …)` tuples whose first entry is taken; they are
            gone through twice.
        steps: Most steps of L-BFGS for each layer.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The sum of the layers' squared relative errors in that metric afterwards, over the one
        before: at most 1.

    Raises:
        ValueError: If nothing is factorized, there are no batches, `steps` is below 1, or the
            networks do not fit together; the network is then as it was.

    Reference:
        Martens, Grosse, arXiv 1503.05671, for the metric; Liu, Nocedal, On the limited memory
        BFGS method, 1989.
    """
    layers = {
        name: layer
        for name, layer in paired(model, dense).items()
        if not isinstance(dense.get_submodule(name), Factorized)
    }
    if not layers:
        raise ValueError("the network must have factorized layers to refit, but has none.")
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    inputs = list(inputs_of(batches, "`batches`"))
    collected = moments(dense, list(layers), inputs, largest_patch=LARGEST_PATCH)
    backup = copy.deepcopy(model.state_dict())
    before = after = 0.0
    try:
        with bar(progress) as shown:
            for name in shown.track(layers, description="refit"):
                metric = metric_of(collected[name])
                errors = _fit(layers[name], weight_of(dense, name), metric, steps)
                before, after = before + errors[0], after + errors[1]
        if after < before and norms_with_statistics(model):
            recalibrate(model, inputs)
    except BaseException:
        model.load_state_dict(backup)
        raise
    return after / before if before > 0.0 else 1.0


def _fit(layer: Factorized, weight: Tensor, metric: Metric, steps: int) -> tuple[float, float]:
    """Fit one layer; return its squared relative error before and after.

    That is `‖output · (Ŵ − W) · input‖² / ‖output · W · input‖²`, for the matrices of the metric.
    """
    output, inputs = (_squared(m, weight) for m in (metric.output, metric.input))
    n_inputs = inputs.shape[-1]  # of a patch, or channels
    blocks = (*inputs.shape[:-2], output.shape[-1], n_inputs, -1)  # (groups), out, in, kernel

    def half_gradient(kernel: Tensor) -> Tensor:
        """Return half the gradient `h(K)` of the squared norm, which is then `⟨K, h(K)⟩`."""
        rows = kernel.reshape(blocks).movedim(-1, -3)
        rows = rows * inputs if inputs.dim() == 1 else rows @ inputs.unsqueeze(-3)
        product = output[:, None] * rows if output.dim() == 1 else output.unsqueeze(-3) @ rows
        return product.movedim(-3, -1).reshape(kernel.shape)

    target = weight.detach()
    size = (target * half_gradient(target)).sum().clamp_min(1e-30)
    factors = [f.detach().clone().requires_grad_() for f in layer.factors()]
    optimizer = torch.optim.LBFGS(factors, max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        difference = reconstruct(factors, layer.structure) - target
        half = half_gradient(difference.detach())
        # This has the value of the squared norm, and its gradient without a way back through h.
        return (2.0 * difference - difference.detach()).mul(half).sum() / size

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
        layer.set_factors(factors)
    return before, after


def _squared(matrix: Tensor, weight: Tensor) -> Tensor:
    """Square a matrix or a diagonal, in the weight's dtype.

    Entries that are subnormal there become zero: padded patches leave so many of them that
    products would take tens of times as long.
    """
    squared = (matrix.square() if matrix.dim() == 1 else matrix @ matrix).to(weight)
    return F.hardshrink(squared, torch.finfo(squared.dtype).tiny)
