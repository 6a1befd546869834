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
"""A metric is `(C + DAMPING · mean eigenvalue of C) ** (POWER / 2)` of a curvature `C`."""

SENSITIVITY_POWER = 2.0
"""A layer's sensitivity is `‖weight in its metric‖ ** SENSITIVITY_POWER`, over the layers' mean."""


def metric_of(moments: Moments, power: float = POWER, damping: float = DAMPING) -> Metric:
    """Make the metric of a layer from its second moments.

    Each matrix is the root `(C + damping · mean eigenvalue of C) ** (power / 2)` of a moment `C`.

    Args:
        moments: Moments of the layer; their absolute sizes do not matter to its own error.
        power: 1 for the curvature itself, 0 for the plain norm.
        damping: What is added to the eigenvalues, relative to their mean.

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
    metrics = {name: metric_of(collected[name], power, damping) for name in weights}
    sizes = {
        name: float(metrics[name].whiten(weight.detach()).norm()) ** SENSITIVITY_POWER
        for name, weight in weights.items()
    }
    mean = sum(sizes.values()) / max(len(sizes), 1)
    return {
        name: replace(metric, sensitivity=sizes[name] / mean if mean else 1.0)
        for name, metric in metrics.items()
    }


def _root(moments: Tensor, power: float, damping: float) -> Tensor:
    """Return the damped root of every matrix in `(…, n, n)`, or of a diagonal `(n,)`."""
    exact = moments.double()
    values, vectors = (exact, None) if exact.dim() == 1 else torch.linalg.eigh(exact)
    values = values.clamp_min(0.0)
    means = values.mean(dim=-1, keepdim=True)
    # In a dead layer or group nothing matters more than anything else.
    root = torch.where(means > 0.0, (values + damping * means) ** (power / 2), 1.0)
    if vectors is not None:
        root = (vectors * root.unsqueeze(-2)) @ vectors.mT
    return root.float().double()  # as it is written, so that it is the same when it is read
