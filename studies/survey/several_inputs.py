"""Networks whose forward takes more than an image, or gives more than a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.survey.made import Networks, images


def _convolved(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class Stereo(nn.Module):
    """Two images through the same layers, correlated at every shift: a layer that is run twice."""

    def __init__(self, width: int = 32, shifts: int = 8) -> None:
        super().__init__()
        self.shifts = shifts
        self.eye = _convolved(3, width, width)
        self.match = nn.Sequential(
            nn.Conv2d(shifts + width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 1, 3, padding=1),
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Map two images to the disparity of every fourth place."""
        first, second = self.eye(left), self.eye(right)
        costs = [(first * second.roll(shift, 3)).mean(1) for shift in range(self.shifts)]
        return self.match(torch.cat((torch.stack(costs, 1), first), 1))


class Denoiser(nn.Module):
    """Noise, its level as an integer, and words if there are any: all by keyword."""

    def __init__(self, width: int = 48, levels: int = 50, words: int = 24) -> None:
        super().__init__()
        self.level = nn.Embedding(levels, width)
        self.shift = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.queries = nn.Conv2d(width, width, 1)
        self.keys, self.values = nn.Linear(words, width), nn.Linear(words, width)
        self.norm, self.body = nn.GroupNorm(8, width), nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, *, noisy: Tensor, level: Tensor, words: Tensor | None = None) -> Tensor:
        """Map `(N, 3, H, W)`, `(N,)` and `(N, n_words, words)` to the noise."""
        x = self.first(noisy)
        y = self.norm(x + self.shift(self.level(level))[:, :, None, None])
        if words is not None:
            queries = self.queries(y).flatten(2).transpose(1, 2)
            found = F.scaled_dot_product_attention(queries, self.keys(words), self.values(words))
            y = y + found.transpose(1, 2).unflatten(2, y.shape[2:])
        return self.last(x + self.body(F.silu(y)))


@dataclass(frozen=True)
class Found:
    """What `Finder` says of images.

    Attributes:
        logits: Of the classes, `(N, classes)`.
        maps: Features by their stride.
        n_cells: Of the coarsest map.
        name: Of the network.
    """

    logits: Tensor
    maps: dict[int, Tensor]
    n_cells: int
    name: str = "finder"


class Finder(nn.Module):
    """Its output is a data class: tensors, a mapping with integers for keys, an integer, a text."""

    def __init__(self, width: int = 32, classes: int = 12) -> None:
        super().__init__()
        self.fine, self.coarse = _convolved(3, width, width), _convolved(width, 2 * width)
        self.hidden, self.head = nn.Linear(2 * width, 2 * width), nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Found:
        """Map images to what is found."""
        fine = self.fine(x)
        coarse = self.coarse(fine)
        logits = self.head(self.hidden(coarse.mean((2, 3))).relu())
        return Found(logits, {4: fine, 8: coarse}, coarse.shape[2] * coarse.shape[3])


class Pair(nn.Module):
    """An image and what is known besides, as a dictionary in one argument; a list comes out."""

    def __init__(self, width: int = 32, facts: int = 6) -> None:
        super().__init__()
        self.image, self.facts = _convolved(3, width, 2 * width), nn.Linear(facts, 2 * width)
        self.hidden, self.head = nn.Linear(4 * width, 4 * width), nn.Linear(4 * width, 2)

    def forward(self, given: dict[str, Tensor]) -> list[Any]:
        """Map images and facts to two numbers, and say how many images there were."""
        both = (self.image(given["image"]).mean((2, 3)), self.facts(given["facts"]))
        logits = self.head(self.hidden(torch.cat(both, 1).relu()).relu())
        return [logits, logits.argmax(1), len(logits), None]


NETWORKS: Networks = {
    "stereo": lambda: (Stereo(), (images(48), images(48))),
    "denoiser, by keyword": lambda: (
        Denoiser(),
        {"noisy": images(16), "level": torch.tensor([7]), "words": torch.randn(1, 5, 24)},
    ),
    "denoiser, without the optional input": lambda: (
        Denoiser(),
        {"noisy": images(16), "level": torch.tensor([7])},
    ),
    "data class out": lambda: (Finder(), images(48)),
    "dictionary in, integers out": lambda: (
        Pair(),
        ({"image": images(32), "facts": torch.randn(1, 6)},),
    ),
}
