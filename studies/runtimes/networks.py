"""The networks of the study, by name, and what one process says of a plan."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

import search
from sekron import Plan
from studies.speed.sides import applied, untrained

NETWORKS = {
    "resnet18": ("torchvision.models:resnet18", (3, 224, 224)),
    "mobilenet_v2": ("torchvision.models:mobilenet_v2", (3, 224, 224)),
    "resnet20": ("studies.networks:resnet20", (1, 32, 32)),
}
"""Name -> what makes it, and the shape of an image."""

PRECISION = 0.005
"""Half width of the interval at which a race ends, relative to the speed-up."""


def network_and_images(name: str, batch: int) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights whose spectra fall, and a batch of images."""
    spec, shape = NETWORKS[name]
    return untrained(spec), torch.randn(batch, *shape)


def measured(
    name: str, batch: int, plan: Path, runtime: str, max_seconds: float
) -> dict[str, float]:
    """Return the speed-up of a plan in a runtime, with its 95 % interval.

    What its factors are does not matter to the clock.
    """
    network, images = network_and_images(name, batch)
    return raced(network, applied(network, Plan.load(plan)), images, runtime, max_seconds)


def raced(
    dense: nn.Module, small: nn.Module, images: Tensor, runtime: str, max_seconds: float
) -> dict[str, float]:
    """Return the speed-up of a network over the dense one, with its 95 % interval.

    Args:
        dense: Its milliseconds are returned too.
        small: The other one.
        images: That both are given.
        runtime: That runs both, in turn.
        max_seconds: After which the race ends, unless `PRECISION` ends it before.
    """
    clock = search.compare(
        dense, small, images, precision=PRECISION, max_seconds=max_seconds, runtime=runtime
    )
    return {
        "dense_ms": clock.first.median_ms,
        "speedup": clock.ratio,
        "low": clock.low,
        "high": clock.high,
    }
