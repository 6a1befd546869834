"""Pairs of small and large images, read from folders as the benchmarks ship them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sekron.forward.evaluation import one_line

SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")


# Two tensors have no single truth value, so a generated `==` could only raise.
@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A photograph, and the same made small.

    Attributes:
        large: RGB of eight bits, `(3, scale · H, scale · W)`.
        small: Likewise, `(3, H, W)`.
    """

    large: Tensor
    small: Tensor


def pairs_in(folder: Path, scale: int, least: int = 1) -> list[Pair]:
    """Read a folder of images, or one with the folders `HR` and `LR_bicubic/X2` and so on.

    What cannot be used is named and counted on stderr, and left out.

    Args:
        folder: Where the images are.
        scale: The large images are as many times as high and as wide as the small ones.
        least: Fewest pixels of a small image's side.

    Returns:
        Pairs in the order of the files' names.

    Raises:
        FileNotFoundError: If the folder is missing or holds no image that can be used.
    """
    large = folder / "HR" if (folder / "HR").is_dir() else folder
    small = folder / "LR_bicubic" / f"X{scale}"
    if not large.is_dir():
        raise FileNotFoundError(f"there must be a folder of images, got {large}.")
    files = sorted(path for path in large.iterdir() if path.suffix.lower() in SUFFIXES)

    def read(path: Path) -> Pair:
        image = read_rgb(path)
        if not small.is_dir():
            return pair_of(image, scale, least)
        given = small / f"{path.stem}x{scale}{path.suffix}"
        return _given_pair(image, read_rgb(given), scale, least)

    pairs = list(_usable(files, read))
    skipped = len(files) - len(pairs)
    if skipped:
        sys.stderr.write(f"{skipped} of {len(files)} images in {large} were skipped.\n")
    if not pairs:
        raise FileNotFoundError(f"the folder must hold images that can be used, got {large}.")
    return pairs


def read_rgb(path: Path) -> Tensor:
    """Read an image as RGB of eight bits, `(3, H, W)`.

    Grey is repeated, transparency is dropped, sixteen bits are rounded to eight.

    Raises:
        OSError: If the file is no image, or damaged.
    """
    with Image.open(path) as image:
        # Pillow would cut sixteen bits off at 255.
        eight = _eight_bits(image) if image.mode.startswith("I") else image
        pixels = np.array(eight.convert("RGB"))  # (H, W, 3)
    return torch.from_numpy(pixels).movedim(-1, 0).contiguous()


def pair_of(image: Tensor, scale: int, least: int = 1) -> Pair:
    """Crop an image to a multiple of the scale, and make it small by bicubic interpolation.

    Args:
        image: RGB of eight bits, `(3, H, W)`.
        scale: As in `pairs_in`.
        least: As in `pairs_in`.

    Raises:
        ValueError: If the image is too small.
    """
    height, width = (side // scale for side in image.shape[1:])
    _check(height, width, least, scale)
    large = image[:, : height * scale, : width * scale].contiguous()
    whole = Image.fromarray(large.movedim(0, -1).numpy())
    reduced = np.array(whole.resize((width, height), Image.Resampling.BICUBIC))
    return Pair(large, torch.from_numpy(reduced).movedim(-1, 0).contiguous())


def _given_pair(image: Tensor, small: Tensor, scale: int, least: int) -> Pair:
    height, width = small.shape[1:]
    _check(height, width, least, scale)
    if (height, width) != tuple(side // scale for side in image.shape[1:]):
        raise ValueError(
            f"the small image must be {scale} times as small, got {height}x{width} for "
            f"{image.shape[1]}x{image.shape[2]}."
        )
    return Pair(image[:, : height * scale, : width * scale].contiguous(), small)


def _eight_bits(image: Image.Image) -> Image.Image:
    grey = np.asarray(image, dtype=np.float64) / 257.0
    return Image.fromarray(grey.round().clip(0, 255).astype(np.uint8))


def _check(height: int, width: int, least: int, scale: int) -> None:
    if min(height, width) < least:
        raise ValueError(
            f"it must have {least * scale} pixels a side at least, got {height * scale}x"
            f"{width * scale} once cropped to a multiple of {scale}."
        )


def _usable(files: list[Path], read: Callable[[Path], Pair]) -> Iterator[Pair]:
    for path in files:
        try:
            pair = read(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            sys.stderr.write(f"{path} is skipped: {one_line(error)}\n")
            continue
        yield pair
