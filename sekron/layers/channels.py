"""Where the channels of a tensor stand: in memory, and for a bias."""

from __future__ import annotations

import torch
from torch import Tensor

CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}
"""Spatial axes -> memory format with the channels last."""


def along_channels(bias: Tensor, x: Tensor) -> Tensor:
    """Return a bias in the shape and type in which it can be added to `x`."""
    return bias.to(x.dtype).reshape(-1, *[1] * (x.dim() - 2))


def layout_of(x: Tensor) -> torch.memory_format:
    """Return the memory format, contiguous where several fit."""
    last = CHANNELS_LAST.get(x.dim() - 2)
    if last is None or x.is_contiguous() or not x.is_contiguous(memory_format=last):
        return torch.contiguous_format
    return last
