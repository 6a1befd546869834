"""Patches of photographs, turned and mirrored at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from studies.low_level.images import Pair

APART = 100_000_000
"""Between two seeds, of which a generator takes 32 bits; no training has as many patches."""


class Patches(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of patches `(3, size, size)` and `(3, scale · size, scale · size)`, in [0, 1].

    A patch follows from its index and the seed alone: its photograph, each as often as any other,
    its place, and how it is mirrored and turned.

    Args:
        pairs: Photographs.
        count: How many patches there are.
        size: Pixels of a small patch's side; no photograph may be smaller.
        seed: Of all that is random.
    """

    def __init__(self, pairs: Sequence[Pair], count: int, size: int, seed: int = 0) -> None:
        self._pairs, self._count, self._size, self._seed = pairs, count, size, seed

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return the small patch and the large one."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(APART * self._seed + index)
        pair = self._pairs[index % len(self._pairs)]
        scale = pair.large.shape[1] // pair.small.shape[1]

        def drawn(end: int) -> int:
            return int(torch.randint(end, (1,), generator=generator))

        top, left = (drawn(side - self._size + 1) for side in pair.small.shape[1:])
        mirrored, turns = drawn(2) == 1, drawn(4)
        small, large = (
            _turned(_cut(image, top * by, left * by, self._size * by), mirrored, turns)
            for image, by in ((pair.small, 1), (pair.large, scale))
        )
        return small, large


def batches_of(
    pairs: Sequence[Pair], n_batches: int, batch_size: int, size: int, seed: int = 0
) -> DataLoader[Any]:
    """Return a loader of batches of patches, the same in every epoch.

    Args:
        pairs: Photographs.
        n_batches: Batches in an epoch.
        batch_size: Patches in each.
        size: As in `Patches`.
        seed: As in `Patches`.
    """
    return DataLoader(Patches(pairs, n_batches * batch_size, size, seed), batch_size)


def as_batch(image: Tensor) -> Tensor:
    """Return an image of eight bits as a batch of one in [0, 1]."""
    return image[None].float() / 255.0


def _cut(image: Tensor, top: int, left: int, size: int) -> Tensor:
    return image[:, top : top + size, left : left + size].float() / 255.0


def _turned(patch: Tensor, mirrored: bool, turns: int) -> Tensor:
    flipped = patch.flip(-1) if mirrored else patch
    return torch.rot90(flipped, turns, (1, 2)).contiguous()
