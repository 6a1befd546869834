"""What is trained on and judged on: photographs of packages, or of folders that you have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import skimage.data
import torch
from torch import Tensor

from studies.low_level.images import Pair, pair_of, pairs_in
from studies.pretrained.photographs import CALIBRATION, TEST, photograph

COLOURED = (*CALIBRATION, "hubble_deep_field", "immunohistochemistry", "retina")
GREY = ("brick", "camera", "grass", "gravel")
"""Photographs to train on; all lie on the disk once the packages are installed."""

TEST_SIZE = 240
"""Pixels of a side: the middles of the photographs to test on."""

LEAST_TESTED = 8
"""Pixels of a small image's side: SSIM looks at 11 at once, once the border is shaved."""

SAMPLES = "photographs"
"""Name of those."""


@dataclass(frozen=True, slots=True, eq=False)
class Photographs:
    """What a study trains on, and what it is judged on.

    Attributes:
        train: Pairs to train and to calibrate on.
        tests: Name of a set -> pairs that nothing was trained on.
    """

    train: list[Pair]
    tests: Mapping[str, list[Pair]]


def samples(scale: int) -> Photographs:
    """Return the photographs of the packages.

    Args:
        scale: The large ones are as many times as high and as wide as the small ones.
    """
    grey = (torch.from_numpy(getattr(skimage.data, name)()).expand(3, -1, -1) for name in GREY)
    train = [*(_eight_bits(photograph(name)) for name in COLOURED), *grey]
    tests = [_middle(_eight_bits(photograph(name))) for name in TEST]
    return Photographs(
        [pair_of(image, scale) for image in train],
        {SAMPLES: [pair_of(image, scale) for image in tests]},
    )


def from_folders(folder: Path, scale: int, size: int) -> Photographs:
    """Read the folder `train`, and every other one as a set to test on.

    Args:
        folder: Holds these.
        scale: As in `samples`.
        size: Pixels of a small patch's side; smaller photographs are not trained on.

    Raises:
        FileNotFoundError: If `train` is missing, or one of them holds no image that can be used.
    """
    names = sorted(path.name for path in folder.glob("[!.]*/"))
    if "train" not in names or len(names) < 2:
        raise FileNotFoundError(
            f"{folder} must hold the folder `train` and one to test on at least, got "
            f"{', '.join(names) or 'none'}."
        )
    names.remove("train")
    tests = {name: pairs_in(folder / name, scale, least=LEAST_TESTED) for name in names}
    return Photographs(pairs_in(folder / "train", scale, least=size), tests)


def _eight_bits(image: Tensor) -> Tensor:
    return (255.0 * image).round().to(torch.uint8)


def _middle(image: Tensor) -> Tensor:
    top, left = ((side - TEST_SIZE) // 2 for side in image.shape[1:])
    return image[:, top : top + TEST_SIZE, left : left + TEST_SIZE]
