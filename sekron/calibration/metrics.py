"""The metrics of a network's layers, from the second moments that its images leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from sekron.calibration.moments import Moments
from sekron.decomposition.metric import Metric

POWER = 0.5
DAMPING = 0.05
"""How much of the curvature is used, and what is added to it, relative to its mean eigenvalue."""

SENSITIVITY_POWER = 2.0
"""How much a layer counts for the norm of its weight in its metric, against its relative error."""


def metric_of(moments: Moments, power: float = POWER, damping: float = DAMPING) -> Metric:
    """Make the metric of a layer from its second moments.

    Args:
        moments: Of the layer; the absolute size of both does not matter to its own error.
        power: 1 for the curvature itself, 0 for the plain norm.
        damping: Relative to the mean eigenvalue.

    Reference:
        Martens, Grosse, Optimizing neural networks with Kronecker-factored approximate
        curvature, arXiv 1503.05671, for the two factors.
    """
    inputs = moments.n_positions * moments.inputs
    return Metric(_root(moments.gradients, power, damping), _root(inputs, power, damping))


def metrics_of(
    weights: Mapping[str, Tensor],
    collected: Mapping[str, Moments],
    power: float = POWER,
    damping: float = DAMPING,
) -> dict[str, Metric]:
    """Return layer name -> metric, with sensitivities whose mean is 1.

    Args:
        weights: Layer name -> weight `(out, in, kernel…)`.
        collected: Layer name -> moments.
        power: As in `metric_of`.
        damping: As in `metric_of`.
    """
    by_name = {name: metric_of(collected[name], power, damping) for name in weights}
    sizes = {
        name: float(by_name[name].whiten(weight.detach()).norm()) ** SENSITIVITY_POWER
        for name, weight in weights.items()
    }
    mean = sum(sizes.values()) / max(len(sizes), 1)
    return {
        name: replace(metric, sensitivity=sizes[name] / mean if mean else 1.0)
        for name, metric in by_name.items()
    }


def _root(moments: Tensor, power: float, damping: float) -> Tensor:
    """Return the damped root of every matrix in `(…, n, n)`, or of a diagonal `(n,)`."""
    exact = moments.double()
    values, vectors = (exact, None) if exact.dim() == 1 else torch.linalg.eigh(exact)
    values = values.clamp_min(0.0)
    means = values.mean(dim=-1, keepdim=True)
    # Of a dead layer or group nothing matters more than anything else.
    root = torch.where(means > 0.0, (values + damping * means) ** (power / 2), 1.0)
    if vectors is not None:
        root = (vectors * root.unsqueeze(-2)) @ vectors.mT
    return root.float().double()  # as it is kept, so that nothing differs later
