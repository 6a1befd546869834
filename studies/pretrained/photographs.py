"""Crops of the photographs that scikit-image and scikit-learn carry."""

from __future__ import annotations

import numpy as np
import skimage.data
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

CALIBRATION = ("china", "flower", "coffee", "rocket")
TEST = ("astronaut", "chelsea", "motorcycle")
"""Photographs that nothing is calibrated on."""


def photograph(name: str) -> Tensor:
    """Return a photograph, RGB in [0, 1], `(3, H, W)`.

    Args:
        name: One of `CALIBRATION` or `TEST`.
    """
    if name in ("china", "flower"):
        pixels = load_sample_image(f"{name}.jpg")
    elif name == "motorcycle":
        pixels = skimage.data.stereo_motorcycle()[0]
    else:
        pixels = getattr(skimage.data, name)()
    image = torch.from_numpy(np.array(pixels, dtype=np.float32) / 255.0)  # (H, W, 3)
    return image.movedim(-1, 0).contiguous()


def crops(names: tuple[str, ...], count: int, size: int, seed: int = 0) -> Tensor:
    """Cut squares out of photographs at random, of each as many as of any other.

    Args:
        names: Photographs, as in `photograph`.
        count: A multiple of their number.
        size: Of a side, in pixels.
        seed: Seed of the places.

    Returns:
        Shape `(count, 3, size, size)`; neighbours are of different photographs.

    Raises:
        ValueError: If `count` is not a multiple of the number of photographs.
    """
    if count % len(names):
        raise ValueError(f"`count` must be a multiple of {len(names)}, got {count}.")
    generator = torch.Generator().manual_seed(seed)
    images = [photograph(name) for name in names]
    squares = []
    for i in range(count):
        image = images[i % len(images)]
        top, left = (
            int(torch.randint(side - size + 1, (1,), generator=generator))
            for side in image.shape[1:]
        )
        squares.append(image[:, top : top + size, left : left + size])
    return torch.stack(squares)
