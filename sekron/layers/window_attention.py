"""Attention within windows as torchvision's Swin computes it, with linear layers that it calls."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORBIDDEN = -100.0
"""What is added to a score of two places that are neighbours only because of the shift."""


class ShiftedWindowAttention(nn.Module):
    """Attention of shifted windows that calls `qkv` and `proj`, where torchvision's reads them.

    Both versions of Swin: the second compares directions, and computes its position bias.

    The second version has no bias for keys, though it stores one; there the bias stands here, as
    `qkv_bias`, and not in the linear layer.

    Args:
        source: Torchvision's module, whose parameters, parts and hooks pass to this one.

    Reference:
        Liu et al., Swin Transformer, arXiv 2103.14030, section 3.2; Swin Transformer V2,
        arXiv 2111.09883, section 3.
    """

    window_size: list[int]
    shift_size: list[int]
    num_heads: int
    attention_dropout: float
    dropout: float
    qkv: nn.Linear
    proj: nn.Linear
    qkv_bias: nn.Parameter | None
    logit_scale: nn.Parameter
    cpb_mlp: nn.Module
    relative_coords_table: Tensor
    relative_position_bias_table: nn.Parameter
    relative_position_index: Tensor

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.__dict__.update(source.__dict__)
        self.is_cosine = hasattr(self, "logit_scale")
        if self.is_cosine:
            self.qkv_bias = self.qkv.bias
            self.qkv.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, H, W, C)` to the same shape."""
        n_images, height, width, channels = x.shape
        rows, columns = self.window_size
        x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
        sizes = (x.shape[1], x.shape[2])
        triples = zip(self.shift_size, self.window_size, sizes, strict=True)
        shifts = [0 if extent >= size else shift for shift, extent, size in triples]
        x = torch.roll(x, [-shift for shift in shifts], (1, 2)) if any(shifts) else x
        grid = (n_images, sizes[0] // rows, rows, sizes[1] // columns, columns, channels)
        windows = x.reshape(grid).transpose(2, 3).reshape(-1, rows * columns, channels)
        y = self.proj(self._attended(windows, self._regions(sizes, shifts, x)))
        y = F.dropout(y, self.dropout, self.training)
        y = y.reshape(*grid[:2], grid[3], rows, columns, channels).transpose(2, 3)
        y = y.reshape(n_images, *sizes, channels)
        y = torch.roll(y, shifts, (1, 2)) if any(shifts) else y
        return y[:, :height, :width].contiguous()

    def _attended(self, x: Tensor, regions: Tensor | None) -> Tensor:
        """Return what the places of each window take from one another.

        Args:
            x: `(N · windows, places, C)`.
            regions: `(windows, places)`, numbers of what belongs together; None for all of it.
        """
        n_heads = self.num_heads
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, n_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N · windows, num_heads, places, head_dim) each
        if self.is_cosine:
            if self.qkv_bias is not None:
                biases = self.qkv_bias.reshape(3, n_heads, 1, -1)
                q, v = q + biases[0], v + biases[2]
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
            scores = scores * self.logit_scale.clamp(max=math.log(100.0)).exp()
        else:
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores + self._position_bias()
        if regions is not None:
            apart = regions.unsqueeze(1) != regions.unsqueeze(2)
            mask = torch.zeros_like(apart, dtype=x.dtype).masked_fill(apart, FORBIDDEN)
            by_image = scores.reshape(-1, len(mask), *scores.shape[1:])
            scores = (by_image + mask.unsqueeze(1)).reshape(scores.shape)
        weights = F.dropout(scores.softmax(dim=-1), self.attention_dropout, self.training)
        mixed: Tensor = weights @ v
        return mixed.transpose(1, 2).reshape(x.shape)

    def _position_bias(self) -> Tensor:
        """Return what is added to the scores by the places' distance, `(num_heads, p, p)`."""
        places = self.window_size[0] * self.window_size[1]
        if self.is_cosine:
            table: Tensor = self.cpb_mlp(self.relative_coords_table).reshape(-1, self.num_heads)
        else:
            table = self.relative_position_bias_table
        bias = table[self.relative_position_index].reshape(places, places, -1).permute(2, 0, 1)
        return 16 * torch.sigmoid(bias) if self.is_cosine else bias

    def _regions(self, sizes: tuple[int, int], shifts: list[int], x: Tensor) -> Tensor | None:
        """Return, for the places of each window, which part of the image they come from.

        A shift brings places from the other side of the image into the last windows.
        """
        if not any(shifts):
            return None
        numbers = []
        for size, extent, shift in zip(sizes, self.window_size, shifts, strict=True):
            of_axis = x.new_zeros(size)
            if shift:
                of_axis[-extent:-shift], of_axis[-shift:] = 1, 2
            numbers.append(of_axis)
        rows, columns = self.window_size
        both = 3 * numbers[0].unsqueeze(1) + numbers[1]
        windows = both.reshape(-1, rows, sizes[1] // columns, columns).transpose(1, 2)
        return windows.reshape(-1, rows * columns)
