"""The rows of numbers that the moments of a layer are taken of: channels, or whole patches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.layers.factorized import Factorized
from sekron.structures.geometry import per_axis

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

PIECE = 2**24
"""Numbers, about, in the rows that are taken at once."""

ENOUGH, FEWEST_PER_NUMBER = 100_000, 50
"""Rows that are enough for the moments of a layer, but no fewer than these for each number of one.

With N rows for each number a least squares solution errs by about a share of 1/N more."""


def rows_needed(width: int) -> int:
    """Return how many rows of so many numbers are enough for their second moments."""
    return max(ENOUGH, FEWEST_PER_NUMBER * width)


@dataclass(frozen=True, eq=False, slots=True)
class Positions:
    """What a layer takes in at every position, as a view of its input.

    Attributes:
        view: Shape `(N, places…, numbers…)`.
        n_axes: Number of the last axes that make up a row: of channels, or of a whole patch.
        groups: Of the layer; a row is cut into as many parts.
    """

    view: Tensor
    n_axes: int
    groups: int

    @property
    def count(self) -> int:
        """Number of positions, of all images together."""
        return math.prod(self.view.shape[: -self.n_axes])

    @property
    def width(self) -> int:
        """Numbers in a row, of one group."""
        return math.prod(self.view.shape[-self.n_axes :]) // self.groups

    def rows(self, chosen: Tensor | None = None) -> Iterator[Tensor]:
        """Yield rows, some at a time, `(rows, width)`, with groups `(groups, rows, width)`.

        Args:
            chosen: Positions, counted from the first image on; None for all.
        """
        at_once = max(PIECE // (self.width * self.groups), 1)
        if chosen is None:
            n_images = max(at_once * len(self.view) // max(self.count, 1), 1)
            for images in torch.split(self.view, n_images):
                yield self._by_group(images.reshape(-1, self.groups * self.width))
            return
        for some in torch.split(chosen.to(self.view.device), at_once):
            places = torch.unravel_index(some, self.view.shape[: -self.n_axes])
            yield self._by_group(self.view[places].flatten(1))

    def _by_group(self, rows: Tensor) -> Tensor:
        rows = rows.float()
        if self.groups == 1:
            return rows
        return rows.reshape(len(rows), self.groups, self.width).movedim(1, 0)


def batched(module: nn.Module, x: Tensor) -> Tensor:
    """Return what a layer takes in or puts out with an axis for images, also where it has none."""
    if isinstance(module, Factorized):
        n_axes = len(module.structure.weight_shape)
    else:
        weight = module.weight
        assert isinstance(weight, Tensor)
        n_axes = weight.dim()
    return x if x.dim() >= n_axes else x.unsqueeze(0)


def channels_of(module: nn.Module, x: Tensor) -> Positions:
    """Return the channels at every position: of a linear layer the last axis, else axis 1."""
    view = x if isinstance(module, nn.Linear) else x.movedim(1, -1)
    return Positions(view, 1, int(getattr(module, "groups", 1)))


def patches_of(module: Convolution, x: Tensor) -> Positions:
    """Return what the kernel sees at every position, `(N, positions…, in, kernel…)`."""
    n_axes = len(module.kernel_size)
    mode, pads = module.padding_mode, module._reversed_padding_repeated_twice
    if mode == "zeros" and not isinstance(module.padding, str):
        pads = [pad for pad in reversed(per_axis(module.padding, n_axes)) for _ in range(2)]
    x = F.pad(x, pads, "constant" if mode == "zeros" else mode)
    strides, dilations = per_axis(module.stride, n_axes), per_axis(module.dilation, n_axes)
    options = zip(module.kernel_size, strides, dilations, strict=True)
    for axis, (extent, stride, dilation) in enumerate(options):
        x = x.unfold(2 + axis, dilation * (extent - 1) + 1, stride)[..., ::dilation]
    places, kernel = range(2, 2 + n_axes), range(2 + n_axes, 2 + 2 * n_axes)
    return Positions(x.permute(0, *places, 1, *kernel), 1 + n_axes, module.groups)


def inputs_at(module: nn.Module, x: Tensor, largest_patch: int) -> Positions:
    """Return what a layer takes in, by patches or by channels.

    Args:
        module: The layer.
        x: Its input.
        largest_patch: Most numbers of a patch that stands whole in a row; else channels do.
    """
    if isinstance(module, Convolution) and module.weight[0].numel() <= largest_patch:
        return patches_of(module, x)
    return channels_of(module, x)


class Drawn:
    """Rows of all images, of which as many are drawn at random as are enough.

    Args:
        largest_patch: As for `inputs_at`.
        batches: All that will come, where rows are drawn; None to take all rows.
        seed: Of what is drawn.
    """

    def __init__(self, largest_patch: int, batches: Iterable[Sized] | None, seed: int) -> None:
        self._largest_patch = largest_patch
        self._n_images = None if batches is None else sum(map(len, batches))
        self._generator = torch.Generator().manual_seed(seed)

    def rows(self, module: nn.Module, x: Tensor) -> Iterator[Tensor]:
        """Yield rows of what a layer takes in."""
        positions = inputs_at(module, x, self._largest_patch)
        if self._n_images is None:
            yield from positions.rows()
        else:
            share = len(x) / self._n_images
            yield from positions.rows(drawn(positions, share, self._generator))


def drawn(positions: Positions, share: float, generator: torch.Generator) -> Tensor | None:
    """Draw of the rows that a layer's moments need a share; None where there are no more.

    Args:
        positions: Those that there are.
        share: Of the rows that are needed.
        generator: On the CPU.
    """
    wanted = math.ceil(share * rows_needed(positions.width))
    if wanted >= positions.count:
        return None
    return torch.randint(positions.count, (wanted,), generator=generator, device="cpu")
