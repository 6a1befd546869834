"""The networks whose search is timed, with random weights."""

from __future__ import annotations

from torch import nn

from search.cli.sources import load_model
from studies.pretrained.rrdbnet import RRDBNet

N_BLOCKS = 23
"""Of the RRDBNet."""

LARGE, SMALL = "1x3x224x224", "1x3x64x64"

NETWORKS = {
    "resnet18": ("torchvision.models:resnet18", LARGE),
    "resnet50": ("torchvision.models:resnet50", LARGE),
    "mobilenet_v2": ("torchvision.models:mobilenet_v2", LARGE),
    "vgg16": ("torchvision.models:vgg16", LARGE),
    "rrdbnet": ("studies.search_speed.networks:rrdbnet", SMALL),
    "vit_b_16": ("torchvision.models:vit_b_16", LARGE),
    "resnet20": ("studies.networks:resnet20", "1x1x32x32"),
}
"""Name -> what the command line takes for the model, and its input."""


def rrdbnet() -> RRDBNet:
    """Return the RRDBNet of Real-ESRGAN, for fourfold magnification."""
    return RRDBNet(N_BLOCKS)


def network_and_input(name: str, shape: str = "") -> tuple[nn.Module, str]:
    """Return a network and the shape of its input.

    Args:
        name: Of `NETWORKS`, or `module:attribute` of any other.
        shape: Of the input; nothing takes that of `NETWORKS`.
    """
    spec, own = NETWORKS.get(name, (name, LARGE))
    return load_model(spec), shape or own
