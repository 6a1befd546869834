"""The rows of numbers that the moments of a layer are taken of: channels, or whole patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

CHUNK = 16
"""Number of images whose patches are unfolded at once."""

ROWS = 200
"""Rows that are looked at for every number of one, where there are as many."""


def rows_of(module: nn.Module, x: Tensor) -> Tensor:
    """Return one row per position, `(positions, channels)`, with groups `(groups, positions, …)`.

    The channels of a linear layer are the last axis, those of a convolution axis 1.
    """
    groups = int(getattr(module, "groups", 1))
    rows = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
    matrix = rows.reshape(-1, rows.shape[-1]).float()
    return matrix if groups == 1 else matrix.reshape(len(matrix), groups, -1).movedim(1, 0)


def patches_of(module: Convolution, x: Tensor) -> Tensor:
    """Return what the kernel sees at every position, `(N, in · kernel, positions)`."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode)
    options = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for axis, (extent, stride, dilation) in enumerate(options):
        x = x.unfold(2 + axis, dilation * (extent - 1) + 1, stride)[..., ::dilation]
    n_axes = len(module.kernel_size)
    kernel, places = range(2 + n_axes, 2 + 2 * n_axes), range(2, 2 + n_axes)
    return x.permute(0, 1, *kernel, *places).flatten(1, 1 + n_axes).flatten(2)


def rows_of_images(module: nn.Module, x: Tensor, largest: int) -> Iterator[tuple[Tensor, int]]:
    """Yield rows of what a layer takes in, and the number of images that they are of.

    Args:
        module: The layer.
        x: Its input.
        largest: Most numbers of a patch that stands whole in a row; else channels do.
    """
    if isinstance(module, Convolution) and module.weight[0].numel() <= largest:
        for images in torch.split(x, CHUNK):
            yield rows_of(module, patches_of(module, images)), len(images)
    else:
        yield rows_of(module, x), len(x)


class Drawn:
    """Rows of all images, of which as many are drawn at random as are enough.

    Args:
        largest: As for `rows_of_images`.
        per_number: Rows that are enough for every number of one; None takes all.
        batches: All that will come, where rows are drawn.
        seed: Of what is drawn.
    """

    def __init__(
        self, largest: int, per_number: int | None, batches: Iterable[Sized], seed: int
    ) -> None:
        self._largest, self._per_number = largest, per_number
        self._n_images = 0 if per_number is None else sum(map(len, batches))
        self._generator = torch.Generator().manual_seed(seed)

    def rows(self, module: nn.Module, x: Tensor) -> Iterator[Tensor]:
        """Yield rows of what a layer takes in."""
        for rows, n_images in rows_of_images(module, x, self._largest):
            yield rows if self._per_number is None else self._some(rows, self._per_number, n_images)

    def _some(self, rows: Tensor, per_number: int, n_images: int) -> Tensor:
        wanted = math.ceil(per_number * rows.shape[-1] * n_images / self._n_images)
        if wanted >= rows.shape[-2]:
            return rows
        chosen = torch.randint(rows.shape[-2], (wanted,), generator=self._generator)
        return rows.index_select(-2, chosen.to(rows.device))
