"""Unlabelled images from a folder of pictures, resized and normalised as a network wants them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from search.cli.output import note
from sekron.forward.evaluation import one_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of Pillow's, those that nothing else is started for to read them."""

SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
)

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> Pillow's mode."""

NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}
"""Name -> mean and standard deviation of each channel, or of all, of values from 0 to 1."""

Normalization = tuple[tuple[float, ...], tuple[float, ...]]


def load_pictures(
    folder: str, shape: Sequence[int], normalization: Normalization, n_images: int
) -> Tensor:
    """Read the pictures below a folder; those that cannot be read are named and left out.

    Each is resized so that it just covers the input, cut to it around its centre, and normalised.

    Args:
        folder: With pictures in it, or in folders of it.
        shape: Of the input, `(N, channels, height, width)`.
        normalization: Mean and standard deviation of each channel, or of all.
        n_images: Most pictures that are read, evenly spread in the order of their names.

    Returns:
        Images `(n, channels, height, width)`.

    Raises:
        ValueError: If the input takes no pictures, or there is none that can be read.
    """
    if len(shape) != 4 or shape[1] not in MODES:
        raise ValueError(
            "pictures have 1, 3 or 4 channels, height and width, but the input is "
            f"{'x'.join(map(str, shape))}; give a file with a tensor."
        )
    mean, deviation = (_per_channel(values, shape[1]) for values in normalization)
    images = []
    paths = _pictures_below(folder)
    paths = [paths[i] for i in spread(len(paths), n_images)]
    for path in paths:
        try:
            pixels = _pixels(path, MODES[shape[1]], (shape[3], shape[2]))
        except Exception as error:  # whatever a damaged file makes Pillow raise
            note(f"skipped {path}: {one_line(error)}")
            continue
        images.append((pixels - mean) / deviation)
    if not images:
        raise ValueError(
            f"{folder} must hold a picture that can be read ({', '.join(sorted(SUFFIXES))}), got "
            f"{len(paths)} that cannot."
        )
    if len(images) < len(paths):
        note(f"skipped {len(paths) - len(images)} of {len(paths)} pictures")
    return torch.stack(images)


def parse_normalization(text: str) -> Normalization:
    """Read a name, or mean and standard deviation as `0.5,0.5,0.5/0.2,0.2,0.2` or `0.13/0.31`.

    Raises:
        ValueError: If it is neither.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, deviation = (tuple(map(float, part.split(","))) for part in text.split("/"))
    except ValueError:
        mean, deviation = (), (0.0,)
    if not mean or not np.isfinite(mean + deviation).all() or min(deviation) <= 0:
        raise ValueError(
            f"a normalization is {', '.join(NORMALIZATIONS)} or mean and standard deviation of "
            f"values from 0 to 1, '0.5,0.5,0.5/0.2,0.2,0.2' or '0.13/0.31', got {text!r}."
        )
    return mean, deviation


def _pictures_below(folder: str) -> list[Path]:
    found = (path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())


def spread(n_images: int, most: int) -> list[int]:
    """Return which of some images are taken, evenly spread, where that is `most` at most."""
    count = min(n_images, most)
    return [i * n_images // count for i in range(count)]


def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
    if len(values) not in (1, channels):
        raise ValueError(
            f"a normalization must be of one number or of one for each of the {channels} channels, "
            f"got {len(values)}."
        )
    return torch.tensor(values).view(-1, 1, 1)


def _pixels(path: Path, mode: str, size: tuple[int, int]) -> Tensor:
    """Return a picture `(channels, height, width)` with values from 0 to 1."""
    from PIL import Image, ImageOps  # noqa: PLC0415 (only who has pictures waits for it)

    with Image.open(path, formats=FORMATS) as image:
        fitted = ImageOps.fit(_in_mode(image, mode), size, Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(fitted)).float() / 255.0  # (H, W), or (H, W, C)
    return pixels.unsqueeze(0) if pixels.dim() == 2 else pixels.permute(2, 0, 1)


def _in_mode(image: Image, mode: str) -> Image:
    from PIL import Image as Images  # noqa: PLC0415

    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        image = Images.fromarray((np.array(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels must be integers, got floats")
    if image.mode == "P":  # may have transparent colours
        image = image.convert("RGBA")
    return image.convert(mode)
