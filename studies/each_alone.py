"""Half of a repair: each layer is fitted to its own weight, and none to what it gets."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sekron.calibration.moments import moments
from sekron.layers.factorized import Factorized
from sekron.network.surgery import structures_of, weight_of
from sekron.training.factor_fit import fit_factors, metric_of_fit
from sekron.training.sequential_fit import LARGEST_PATCH

STEPS = 100


def fit_each_alone(small: nn.Module, model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Fit the factors of every layer, in place, in the metric of what the dense network gives it.

    Args:
        small: The compressed network.
        model: The dense one.
        batches: Unlabelled inputs.
    """
    names = list(structures_of(small))
    for name, of_layer in moments(model, names, batches, largest_patch=LARGEST_PATCH).items():
        layer = small.get_submodule(name)
        assert isinstance(layer, Factorized)
        fit_factors(layer, weight_of(model, name), metric_of_fit(of_layer), STEPS)
