"""Networks that compute weights anew in every forward: they stay dense, the rest is searched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from studies.survey.made import Made, Networks, images


def _some(computed: Callable[[nn.Conv2d], Any]) -> Made:
    """Four convolutions, the weight of one of which is computed."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 48, 3, stride=2), nn.ReLU()),
        nn.Conv2d(48, 48, 3, padding=1),
        *(nn.ReLU(), nn.Conv2d(48, 64, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(64, 10),
    )
    computed(network[5])
    return network, images(32)


NETWORKS: Networks = {
    "weight norm, old": lambda: _some(weight_norm),
    "weight norm, parametrized": lambda: _some(parametrizations.weight_norm),
    "spectral norm, old": lambda: _some(spectral_norm),
    "pruned by a mask": lambda: _some(lambda conv: prune.l1_unstructured(conv, "weight", 0.5)),
}
