"""Printed characters under clutter: harder than the digits, drawn here from matplotlib's fonts."""

import hashlib
import os
from functools import partial
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.ft2font import FT2Font
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from studies.digits import Split
from studies.networks import resnet
from studies.training import RUNS, trained

# A letter whose two cases differ in size alone is kept in one case, since size is drawn at random;
# 0, 1, I, O, l and o are left out because some fonts draw two of them alike, j and q because they
# come too close to J and g.
CHARACTERS = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabdefghimnrt"
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10"),
)
SIZE = 32
CELL = 64  # pixels of a glyph's own square: twice the image's, so that an average smooths it
EM = 52  # pixels of the font's em in that square: the widest, a bold W, still fits
CHUNK = 1000  # images drawn at once; bounds the memory

MAX_ROTATION = 0.25  # radians
MAX_SHEAR = 0.15
SCALES = (0.85, 1.2)
MAX_OFFSET = 0.12  # in half sides of the image, as are the distances and widths below
FRAGMENT_DISTANCES = (1.1, 1.4)
N_FRAGMENTS = 2
N_LINES = 1
LINE_WIDTHS = (0.02, 0.05)
N_COLOURS = 6  # candidates for the glyph's colour: the more, the stronger the contrast
MAX_NOISE = 0.08


def glyphs(n_train: int = 8000, n_test: int = 2000, seed: int = 0, folder: Path = RUNS) -> Split:
    """Draw printed characters in random fonts, colours and poses, over and under clutter.

    Digits and letters that can be told apart, 44 classes in 21 fonts. The images are drawn once
    and kept as bytes in `folder`; a change of this file or of matplotlib draws them again.

    Args:
        n_train: Images to train on, at least 1.
        n_test: Images to test on, at least 1; drawn from random numbers of their own.
        seed: Seed of the drawing.
        folder: Where the images are kept, by default `.runs` at the root of the repository.

    Returns:
        The split; images of shape `(N, 3, 32, 32)` in [-2, 2], labels index `CHARACTERS`.

    Raises:
        ValueError: If `n_train` or `n_test` is below 1.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     split = glyphs(n_train=88, n_test=44, folder=Path(folder))
        >>> tuple(split.train_images.shape), CHARACTERS[int(split.test_labels.max())]
        ((88, 3, 32, 32), 't')
    """
    if n_train < 1 or n_test < 1:
        raise ValueError(f"`n_train` and `n_test` must be at least 1, got {n_train} and {n_test}.")
    drawing = Path(__file__).read_bytes() + mpl.__version__.encode()
    key = f"glyphs-{n_train}-{n_test}-seed{seed}-{hashlib.sha256(drawing).hexdigest()[:12]}"
    path = folder / f"{key}.safetensors"
    if not path.exists():
        atlas = _atlas()
        train_images, train_labels = _drawn(n_train, atlas, seed=2 * seed)
        test_images, test_labels = _drawn(n_test, atlas, seed=2 * seed + 1)
        _save(
            {
                "train_images": train_images,
                "train_labels": train_labels,
                "test_images": test_images,
                "test_labels": test_labels,
            },
            path,
        )
    parts = load_file(path)
    return Split(
        _normalised(parts["train_images"]),
        parts["train_labels"],
        _normalised(parts["test_images"]),
        parts["test_labels"],
    )


def trained_resnet(split: Split, depth: int = 20) -> nn.Module:
    """Train a ResNet on the glyphs, or load the weights of the earlier training.

    Args:
        split: What `glyphs` returns.
        depth: As in `studies.networks.resnet`.

    Returns:
        The network, in eval mode.

    Example:
        >>> model = trained_resnet(glyphs())  # doctest: +SKIP
    """
    build = partial(resnet, depth, num_classes=len(CHARACTERS), in_channels=3)
    name = f"resnet{depth}-glyphs"
    return trained(name, build, split.train_images, split.train_labels, epochs=12)


def _atlas() -> Tensor:
    """Render every character in every font, centred: (classes, fonts, CELL, CELL) in [0, 1]."""
    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    fonts = [FT2Font(str(folder / f"{name}.ttf")) for name in FONTS]
    for font in fonts:
        font.set_size(EM, 72)  # at 72 dots per inch a point is a pixel
    return torch.stack([torch.stack([_glyph(c, font) for font in fonts]) for c in CHARACTERS])


def _glyph(character: str, font: FT2Font) -> Tensor:
    font.set_text(character)
    font.draw_glyphs_to_bitmap()
    ink = torch.tensor(font.get_image()).float() / 255  # (height, width)
    top, left = (CELL - ink.shape[0]) // 2, (CELL - ink.shape[1]) // 2
    bottom, right = CELL - ink.shape[0] - top, CELL - ink.shape[1] - left
    return F.pad(ink, (left, right, top, bottom))


def _drawn(n_images: int, atlas: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw images `(n_images, 3, SIZE, SIZE)` as bytes, and balanced labels `(n_images,)`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randperm(n_images, generator=generator) % len(CHARACTERS)
    images = [_scene(chunk, atlas, generator) for chunk in torch.split(labels, CHUNK)]
    return torch.cat(images), labels


def _scene(labels: Tensor, atlas: Tensor, generator: torch.Generator) -> Tensor:
    """Paint from back to front: fragments of other glyphs, the glyph itself, thin lines, noise."""
    n = len(labels)
    background = torch.rand(n, 3, generator=generator)
    canvas = background[:, :, None, None].expand(n, 3, SIZE, SIZE)
    for _ in range(N_FRAGMENTS):
        others = torch.randint(len(CHARACTERS), (n,), generator=generator)
        distance = _uniform(FRAGMENT_DISTANCES, (n, 1), generator)
        offset = distance * _directions(n, generator)
        fragment = _posed(others, offset, atlas, generator)
        canvas = _painted(canvas, fragment, torch.rand(n, 3, generator=generator))
    offset = _uniform((-MAX_OFFSET, MAX_OFFSET), (n, 2), generator)
    glyph = _posed(labels, offset, atlas, generator)
    canvas = _painted(canvas, glyph, _contrasting(background, generator))
    for _ in range(N_LINES):
        canvas = _painted(canvas, _line(n, generator), torch.rand(n, 3, generator=generator))
    noise = torch.randn(canvas.shape, generator=generator)
    canvas = canvas + _uniform((0, MAX_NOISE), (n, 1, 1, 1), generator) * noise
    return (255 * canvas.clamp(0, 1)).round().byte()


def _posed(labels: Tensor, offset: Tensor, atlas: Tensor, generator: torch.Generator) -> Tensor:
    """Place glyphs of random fonts with random rotation, shear and scale: (n, 1, SIZE, SIZE)."""
    n = len(labels)
    fonts = torch.randint(len(FONTS), (n,), generator=generator)
    angle = _uniform((-MAX_ROTATION, MAX_ROTATION), (n,), generator)
    shear = _uniform((-MAX_SHEAR, MAX_SHEAR), (n,), generator)
    scale = _uniform(SCALES, (n,), generator)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    # From a place in the image to one in the glyph's square, both in [-1, 1].
    rows = (cos + shear * sin, shear * cos - sin, sin, cos)
    linear = torch.stack(rows, dim=1).view(n, 2, 2)
    shift = -linear @ offset[:, :, None]  # (n, 2, 1)
    grid = F.affine_grid(
        torch.cat((linear, shift), dim=2), [n, 1, CELL, CELL], align_corners=False
    )  # (n, CELL, CELL, 2)
    cells = atlas[labels, fonts][:, None]  # (n, 1, CELL, CELL)
    return F.avg_pool2d(F.grid_sample(cells, grid, align_corners=False), CELL // SIZE)


def _line(n: int, generator: torch.Generator) -> Tensor:
    """Cover straight lines across the images, softened over a pixel: (n, 1, SIZE, SIZE)."""
    axis = (torch.arange(SIZE) + 0.5) * 2 / SIZE - 1
    normal_x, normal_y = _directions(n, generator).view(n, 2, 1, 1).unbind(1)
    position = _uniform((-0.8, 0.8), (n, 1, 1), generator)
    width = _uniform(LINE_WIDTHS, (n, 1, 1), generator)
    distance = (normal_x * axis + normal_y * axis[:, None] - position).abs()  # (n, SIZE, SIZE)
    pixel = 2 / SIZE
    return ((width - distance) / pixel + 0.5).clamp(0, 1)[:, None]


def _contrasting(background: Tensor, generator: torch.Generator) -> Tensor:
    """Draw colours `(n, 3)`, each the farthest from its background among a few."""
    candidates = torch.rand(len(background), N_COLOURS, 3, generator=generator)
    farthest = (candidates - background[:, None]).norm(dim=2).argmax(dim=1)  # (n,)
    return candidates[torch.arange(len(background)), farthest]


def _painted(canvas: Tensor, coverage: Tensor, colour: Tensor) -> Tensor:
    return torch.lerp(canvas, colour[:, :, None, None], coverage)


def _directions(n: int, generator: torch.Generator) -> Tensor:
    """Draw unit vectors of the plane, (n, 2)."""
    return F.normalize(torch.randn(n, 2, generator=generator), dim=1)


def _uniform(
    bounds: tuple[float, float], shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(shape, generator=generator)


def _normalised(images: Tensor) -> Tensor:
    # Constants, not the images' own statistics: a mean's last bit varies with the threads, and
    # with it the name under which `trained` keeps the weights.
    return (images.float() / 255 - 0.5) / 0.25


def _save(parts: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file appears whole or not at all, also when two studies draw the same glyphs at once.
    partial_path = path.with_suffix(f".{os.getpid()}")
    save_file(parts, partial_path)
    partial_path.replace(path)
