"""How near one network's images come to another's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def fidelity(network: nn.Module, dense: nn.Module, images: Tensor) -> float:
    """Return the PSNR in dB between the outputs of two networks, over all images together."""
    with torch.no_grad():
        squares = (network(images) - dense(images)).square().mean()
    return float(-10.0 * squares.log10())
