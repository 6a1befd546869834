"""How much a network's output changes when one layer alone is compressed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sekron.calibration.divergence import Reference
from sekron.calibration.output_kind import Output, kind_of
from sekron.decomposition.gram import eigh_of_gram
from sekron.decomposition.metric import ERROR_POWER, Metric
from sekron.forward.evaluation import evaluating
from sekron.forward.inputs import Arguments
from sekron.network.copying import copy_of
from sekron.network.precision import in_single_precision
from sekron.network.surgery import weight_of

LEVELS = (0.3, 0.5, 0.7)
"""Approximate relative errors at which a layer is tried."""

LEAST = 1e-9
"""Least divergence that is more than rounding."""

LEAST_ERROR = 1e-5
"""Least relative error that is more than rounding."""


@in_single_precision
def divergences(
    model: nn.Module,
    metrics: Mapping[str, Metric],
    batches: Sequence[Arguments],
    output: Output | None = None,
) -> dict[str, list[tuple[float, float]]]:
    """Compress one layer after another to lower rank, and compare the network's outputs.

    Batch norm uses the statistics of the batch, as if it had been re-estimated, where every batch
    has more than one image.

    Args:
        model: Not modified; one copy of it runs.
        metrics: Layer name -> metric that its weight is approximated in.
        batches: Unlabelled inputs.
        output: What the network puts out; None to guess.

    Returns:
        Layer name -> relative error in the metric and divergence of the output, mean over the
        images, for each of `LEVELS` that lower ranks reach.

    Raises:
        ValueError: If outputs differ in shape from the dense network's, or are not finite.
    """
    network = copy_of(model)
    by_layer: dict[str, list[tuple[float, float]]] = {}
    with evaluating(network):
        if min(map(len, batches)) > 1:
            for module in network.modules():
                module.training = isinstance(module, _BatchNorm)
        outputs = [batch.run(network) for batch in batches]
        reference = Reference(batches, outputs, kind_of(output, outputs[0]))
        for name, metric in metrics.items():
            weight = weight_of(network, name)
            original, by_layer[name] = weight.clone(), []
            for error, approximation in _approximations(original, metric):
                weight.copy_(approximation)
                by_layer[name].append((error, _divergence(name, network, reference)))
            weight.copy_(original)
    return by_layer


def sensitivities(found: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, float]:
    """Fit `divergence = sensitivity · error ** ERROR_POWER` to every layer; their mean is 1.

    Logarithms are fitted, so that all levels count alike.

    Args:
        found: What `divergences` returns; a layer without entries counts as an average one.
    """
    fits = {
        name: math.exp(
            fmean(math.log(max(d, LEAST)) - ERROR_POWER * math.log(error) for error, d in pairs)
        )
        for name, pairs in found.items()
        if pairs
    }
    mean = fmean(fits.values()) if fits else 1.0
    return {name: fits.get(name, mean) / mean for name in found}


def weighted_by(
    metrics: Mapping[str, Metric], found: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, Metric]:
    """Return layer name -> metric, with sensitivities from divergences instead of from its size.

    That keeps more accuracy than the size, or both (`python -m studies.metric`).

    Args:
        metrics: Layer name -> metric.
        found: What `divergences` returns, for the same layers.
    """
    fits = sensitivities(found)
    return {name: replace(metric, sensitivity=fits[name]) for name, metric in metrics.items()}


def _approximations(weight: Tensor, metric: Metric) -> Iterator[tuple[float, Tensor]]:
    """Yield relative errors near `LEVELS`, and low-rank approximations that have them."""
    matrix = metric.whiten(weight).flatten(1)
    is_tall = matrix.shape[0] > matrix.shape[1]
    energy, vectors = (x.flip(-1) for x in eigh_of_gram(matrix.mT if is_tall else matrix))
    lost = (energy.sum() - energy.cumsum(0)).clamp_min(0.0) / energy.sum().clamp_min(1e-300)
    errors = lost.sqrt()[:-1]  # without the last, which is zero
    if len(errors) == 0 or not energy.any():
        return
    back = metric.inverse()
    for rank in sorted({1 + int((errors - level).abs().argmin()) for level in LEVELS}):
        basis = vectors[:, :rank]
        low = matrix @ basis @ basis.mT if is_tall else basis @ (basis.mT @ matrix)
        error = float((matrix - low).norm() / matrix.norm())
        if error > LEAST_ERROR:
            yield error, back.whiten(low.reshape(weight.shape)).to(weight.dtype)


def _divergence(name: str, network: nn.Module, reference: Reference) -> float:
    try:
        found = reference.divergence(network)
    except ValueError as error:
        raise ValueError(
            f"the network's outputs must keep their shapes when layer {name!r} is compressed."
        ) from error
    if not math.isfinite(found):
        raise ValueError(
            f"the network's output must stay finite when layer {name!r} is compressed."
        )
    return found
