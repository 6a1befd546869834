"""Magnify a picture by the dense network, by the compressed one and without either."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.forward.evaluation import one_line
from studies.super_resolution.networks import SCALE

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Of Pillow's, those that nothing else is started for to read them."""

MOST_PIXELS = 1_000_000
"""Of a picture: the last convolutions of `x4plus` keep 4 kB for each."""

WARM_UP = 16
"""Side in pixels of the image that a network runs on before it is timed."""

MARGIN, FONT_SIZE = 8, 16
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def read_picture(path: Path) -> Tensor:
    """Return a picture as RGB in [0, 1], `(1, 3, H, W)`.

    Grey becomes RGB; what is see-through is shown on white; of several pictures the first is read.

    Raises:
        ValueError: If the file is not there, is no picture, is cut short or is too large.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            size = image.size
            is_small = size[0] * size[1] <= MOST_PIXELS
            pixels = _rgb(ImageOps.exif_transpose(image)) if is_small else None
    except FileNotFoundError as error:
        raise ValueError(f"{path} must be a picture, but is not there.") from error
    except Exception as error:  # whatever a damaged file makes Pillow raise
        raise ValueError(f"{path} must be a picture that can be read: {one_line(error)}") from error
    if pixels is None:
        raise ValueError(
            f"{path} must have at most {MOST_PIXELS} pixels, got {size[0]} by {size[1]}; cut a "
            "part out of it."
        )
    return torch.from_numpy(pixels).movedim(-1, 0)[None].contiguous()


def _rgb(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return the pixels as `(H, W, 3)` in [0, 1]."""
    if image.mode.startswith("I"):  # grey of sixteen bits, which Pillow would cut off at 255
        grey = np.asarray(image, dtype=np.float32) / 65535.0
        return np.repeat(grey.clip(0.0, 1.0)[..., None], 3, axis=2)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, (*WHITE, 255))
        image = Image.alpha_composite(ground, layer)
    return np.asarray(image.convert("RGB"), dtype=np.float32) / 255.0


def magnified(network: nn.Module, image: Tensor) -> tuple[Tensor, float]:
    """Return what a network makes of an image, and the seconds that it took by the clock."""
    with torch.no_grad():
        network(image[..., :WARM_UP, :WARM_UP])
        start = time.perf_counter()
        output = network(image)
        return output.clamp(0.0, 1.0), time.perf_counter() - start


def bicubic(image: Tensor) -> tuple[Tensor, float]:
    """Return an image magnified without a network, and the seconds that it took by the clock."""
    start = time.perf_counter()
    larger = F.interpolate(image, scale_factor=float(SCALE), mode="bicubic").clamp(0.0, 1.0)
    return larger, time.perf_counter() - start


def side_by_side(panels: list[tuple[Tensor, str]]) -> Image.Image:
    """Return images beside each other, each with a line of text under it.

    Args:
        panels: Images `(1, 3, H, W)` in [0, 1] of one size, and what is written under them.
    """
    font = ImageFont.load_default(FONT_SIZE)
    height, width = panels[0][0].shape[-2:]
    column = max(width, *(int(font.getlength(text)) + 1 for _, text in panels)) + MARGIN
    sheet = Image.new(
        "RGB", (len(panels) * column + MARGIN, height + FONT_SIZE + 3 * MARGIN), WHITE
    )
    draw = ImageDraw.Draw(sheet)
    for k, (image, text) in enumerate(panels):
        pixels = (image[0].movedim(0, -1) * 255.0).round().byte().numpy()
        sheet.paste(Image.fromarray(pixels), (MARGIN + k * column, MARGIN))
        draw.text((MARGIN + k * column, height + 2 * MARGIN), text, BLACK, font)
    return sheet
