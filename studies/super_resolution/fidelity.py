"""How near one network's images come to another's."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

LUMINANCE = (65.481, 128.553, 24.966)
"""Of red, green and blue in [0, 1]: what the luminance of ITU-R BT.601 adds to its `BLACK`."""

BLACK, WHITE = 16.0, 255.0
"""Luminance of black, and the range that the field takes for its PSNR."""


@dataclass(frozen=True, slots=True)
class OnLuminance:
    """PSNR in dB and SSIM of images, as the field reports them of super-resolution.

    Attributes:
        psnr: Mean over the images; infinite where one is equal.
        ssim: Mean over the images, at most 1.
    """

    psnr: float
    ssim: float

    @classmethod
    def of(cls, images: Tensor, truth: Tensor, border: int) -> OnLuminance:
        """Compare the luminance of images, RGB in [0, 1], `(N, 3, H, W)`, within their border.

        Args:
            images: What is beyond [0, 1] is cut off; nothing is rounded to eight bits.
            truth: What they should be, likewise.
            border: Pixels left out at each side, as many as the magnification.
        """
        inside = slice(border, -border or None)
        pair = [
            luminance(x.clamp(0.0, 1.0))[:, 0, inside, inside].double() for x in (truth, images)
        ]
        squares = (pair[0] - pair[1]).square().mean(dim=(1, 2))
        # As in Wang et al., Image quality assessment, 2004: Gaussian windows of 11 by 11.
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        ssim = [
            structural_similarity(first.numpy(), second.numpy(), data_range=1.0, **options)
            for first, second in zip(*pair, strict=True)
        ]
        return cls(float(-10.0 * squares.log10().mean()), fmean(ssim))


def luminance(images: Tensor) -> Tensor:
    """Return the luminance of RGB images `(N, 3, H, W)` in [0, 1], `(N, 1, H, W)`."""
    weights = torch.tensor(LUMINANCE).reshape(1, 3, 1, 1)
    return (BLACK + (weights * images).sum(dim=1, keepdim=True)) / WHITE


def fidelity(network: nn.Module, dense: nn.Module, images: Tensor) -> float:
    """Return the PSNR in dB between the outputs of two networks, over all images together."""
    with torch.no_grad():
        squares = (network(images) - dense(images)).square().mean()
    return float(-10.0 * squares.log10())
