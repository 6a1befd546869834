"""How near magnified images come to the real ones, as the field reports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from studies.low_level.images import Pair
from studies.low_level.patches import as_batch

LUMINANCE = (65.481, 128.553, 24.966)
"""Of red, green and blue in [0, 1], over a black of 16: ITU-R BT.601, eight bits."""

SSIM = {"data_range": 1.0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""Windows of 11 pixels, as published; those over the border do not count."""


def luminance(images: Tensor) -> Tensor:
    """Return the Y channel of RGB images, both in [0, 1].

    Args:
        images: `(N, 3, H, W)`.

    Returns:
        `(N, 1, H, W)`, between 16 / 255 and 235 / 255.
    """
    weights = torch.tensor(LUMINANCE, dtype=images.dtype, device=images.device)
    return (16.0 + torch.einsum("nchw,c->nhw", images, weights)[:, None]) / 255.0


def quality(network: Callable[[Tensor], Tensor], pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return PSNR in dB and SSIM on the luminance, means over the images.

    What is put out is rounded to eight bits; as many pixels as the scale are shaved off every side.

    Args:
        network: Magnifies images `(1, 3, H, W)` in [0, 1].
        pairs: Photographs.

    Reference:
        Wang et al., Image quality assessment, 2004, for SSIM.
    """
    scores = []
    for pair in pairs:
        with torch.no_grad():
            output = network(as_batch(pair.small))
        shave = pair.large.shape[1] // pair.small.shape[1]
        rounded = output.clamp(0.0, 1.0).mul(255.0).round() / 255.0
        wanted, found = (
            luminance(image)[0, 0, shave:-shave, shave:-shave].numpy()
            for image in (as_batch(pair.large), rounded)
        )
        with np.errstate(divide="ignore"):  # where nothing is wrong it is infinite
            psnr = peak_signal_noise_ratio(wanted, found, data_range=1.0)
        scores.append((float(psnr), float(structural_similarity(wanted, found, **SSIM))))
    psnrs, ssims = zip(*scores, strict=True)
    return sum(psnrs) / len(psnrs), sum(ssims) / len(ssims)
