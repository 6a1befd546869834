"""How near magnified images come to the real ones, as the field reports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

import torch
from torch import Tensor

from studies.low_level.images import Pair
from studies.low_level.patches import as_batch
from studies.super_resolution.fidelity import OnLuminance


def quality(network: Callable[[Tensor], Tensor], pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return PSNR in dB and SSIM on the luminance, means over the images.

    What is put out is rounded to eight bits; as many pixels as the scale are shaved off every side.

    Args:
        network: Magnifies images `(1, 3, H, W)` in [0, 1].
        pairs: Photographs.
    """
    scores = []
    for pair in pairs:
        with torch.no_grad():
            output = network(as_batch(pair.small))
        rounded = output.clamp(0.0, 1.0).mul(255.0).round() / 255.0
        border = pair.large.shape[1] // pair.small.shape[1]
        scores.append(OnLuminance.of(rounded, as_batch(pair.large), border))
    return fmean(score.psnr for score in scores), fmean(score.ssim for score in scores)
