"""Fit the factors of one layer to a weight, in a metric, by L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from sekron.calibration.metrics import metric_of
from sekron.calibration.moments import Moments
from sekron.decomposition.decompose import reconstruct
from sekron.decomposition.metric import Metric
from sekron.decomposition.narrow import narrowed
from sekron.decomposition.own_precision import in_own_precision
from sekron.layers.factorized import Factorized
from sekron.structures.families import whole_channels
from sekron.structures.structure import Structure

POWER, DAMPING = 1.0, 0.01
"""Of the metric of a fit: the curvature itself, where a search does better with its root."""

LEAST = 1e-9
"""Least eigenvalue of what the factors are seen in, relative to the largest."""

HISTORY = 20
"""Steps that L-BFGS remembers; more cost time and gain nothing."""

TOLERANCE = 1e-10
"""A fit ends when no step changes anything by more."""


def metric_of_fit(moments: Moments) -> Metric:
    """Return the metric that the factors of a layer are fitted in, from its moments."""
    return metric_of(moments, POWER, DAMPING)


def fit_factors(
    layer: Factorized, target: Tensor, metric: Metric, steps: int
) -> tuple[float, float]:
    """Fit the factors of a layer, in place, where that lowers the error.

    The error is `‖G^(p/2) (W − Ŵ) A^(p/2)‖² / ‖G^(p/2) W A^(p/2)‖²`, with the roots that the
    metric holds. It is computed in single precision at least, whatever the layer's dtype. The steps
    are taken in coordinates in which the channels count alike, and the terms of a CP are as large
    in all its factors: where some directions matter thousands of times as much as others, L-BFGS
    gets much farther there.

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
    with in_own_precision(target):  # half precision shows no descent
        return _fit(layer, target, metric, steps)


def _fit(layer: Factorized, target: Tensor, metric: Metric, steps: int) -> tuple[float, float]:
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

    tiny = torch.finfo(dtype).tiny
    size = (weight * half_gradient(weight)).sum().clamp_min(tiny)
    coordinates = _coordinates(metric, layer.structure, weight)
    start = coordinates.enter([factor.detach().to(dtype) for factor in layer.factors()])
    # L-BFGS wants them contiguous.
    seen = [f.clone(memory_format=torch.contiguous_format).requires_grad_() for f in start]
    optimizer = torch.optim.LBFGS(
        seen,
        max_iter=steps,
        history_size=HISTORY,
        tolerance_grad=TOLERANCE,
        tolerance_change=TOLERANCE,
        line_search_fn="strong_wolfe",
    )

    def loss_of(factors: Sequence[Tensor]) -> Tensor:
        lost = reconstruct(factors, layer.structure) - weight
        half = half_gradient(lost.detach())
        # The squared norm, and its gradient without a way back through the products above.
        return (2.0 * lost - lost.detach()).mul(half).sum() / size

    wanted = coordinates.wanted
    seen_size = size if wanted is None else wanted.square().sum().clamp_min(tiny)

    def seen_loss() -> Tensor:
        if wanted is None:
            return loss_of(coordinates.leave(seen))
        # The same number, without the products with the metric.
        return (reconstruct(seen, layer.structure) - wanted).square().sum() / seen_size

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = seen_loss()
        torch.autograd.backward(value)
        return value

    with torch.no_grad():
        before = float(loss_of([factor.to(dtype) for factor in layer.factors()]))
    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]  # torch's has no types
    with torch.no_grad():
        fitted = narrowed(coordinates.leave(seen), target.dtype)
        after = float(loss_of([factor.to(dtype) for factor in fitted]))
        if not after < before:
            return before, before
        layer.set_factors(fitted)
    return before, after


@dataclass(frozen=True, eq=False, slots=True)
class _Coordinates:
    """Factors as they are seen by the optimizer.

    Attributes:
        structure: The factorization.
        inward: Magnifies what matters; None to see the factors as they are.
        outward: Undoes it.
        wanted: The weight as it is seen, where that is magnified by all of the metric, so that its
            plain norm is the one that counts; else None.
    """

    structure: Structure
    inward: Metric | None = None
    outward: Metric | None = None
    wanted: Tensor | None = None

    def enter(self, factors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return factors as they are seen."""
        if self.inward is not None:
            factors = self.inward.magnify(factors, self.structure)
        return _balanced(factors) if self.structure.family == "cp" else factors

    def leave(self, factors: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return the factors themselves."""
        if self.outward is None:
            return factors
        return self.outward.magnify(factors, self.structure)


def _coordinates(metric: Metric, structure: Structure, weight: Tensor) -> _Coordinates:
    """Return coordinates in which the metric of the channels is about the identity.

    A structure of several groups is seen as it is.
    """
    if structure.groups > 1:
        return _Coordinates(structure)
    inputs = metric.input
    is_of_channels = inputs.shape[-1] == weight.shape[1]
    if inputs.dim() > 1 and not is_of_channels:
        inputs = _of_channels(inputs, weight.shape[1])
    inward = Metric(_levelled(metric.output), _levelled(inputs))
    wanted = None
    if is_of_channels and all(whole_channels(structure.shapes)):
        wanted = inward.whiten(weight).to(weight)
    outward = _cast(inward.inverse(), weight)
    return _Coordinates(structure, _cast(inward, weight), outward, wanted)


def _of_channels(root: Tensor, n_channels: int) -> Tensor:
    """Return the root for the channels alone, from one for whole patches."""
    n_places = root.shape[-1] // n_channels
    places = (root @ root).reshape(n_channels, n_places, n_channels, n_places)
    values, vectors = torch.linalg.eigh(places.diagonal(dim1=1, dim2=3).sum(dim=-1))
    values = values.clamp_min(LEAST * float(values[-1]))
    channels: Tensor = (vectors * values.sqrt()) @ vectors.mT
    return channels


def _cast(metric: Metric, weight: Tensor) -> Metric:
    return Metric(metric.output.to(weight), metric.input.to(weight))


def _levelled(root: Tensor) -> Tensor:
    """Scale a root such that it magnifies by one on average."""
    return root * (math.sqrt(root.shape[-1]) / float(root.norm()))


def _balanced(factors: Sequence[Tensor]) -> list[Tensor]:
    """Give the terms of a CP the same norm in all factors, which changes no product of them."""
    norms = torch.stack([f.flatten(1).norm(dim=1) for f in factors])  # (factors, R)
    norms = norms.clamp_min(torch.finfo(norms.dtype).tiny)
    means = norms.log().mean(dim=0).exp()
    return [
        f * (means / own).reshape(-1, *[1] * (f.dim() - 1))
        for f, own in zip(factors, norms, strict=True)
    ]


def _squared(matrix: Tensor, weight: Tensor) -> Tensor:
    """Square a matrix or a diagonal, its largest number scaled to 1, in the weight's dtype.

    What of it is subnormal there becomes zero: padded patches leave so much of it that products
    would take tens of times as long.
    """
    exact = matrix / matrix.abs().amax()
    squared = (exact.square() if exact.dim() == 1 else exact @ exact).to(weight)
    return F.hardshrink(squared, torch.finfo(squared.dtype).tiny)
