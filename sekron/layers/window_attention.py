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
        window, shift = self.window_size, self.shift_size
        y = mixed(
            self.qkv(windows_of(x, window, shift)),
            x,
            window,
            shift,
            self._position_bias(),
            self.qkv_bias if self.is_cosine else None,
            self.logit_scale if self.is_cosine else None,
            self.attention_dropout if self.training else 0.0,
        )
        y = F.dropout(self.proj(y), self.dropout, self.training)
        return joined(y, x, window, shift)

    def _position_bias(self) -> Tensor:
        """Return what is added to the scores by the places' distance, `(num_heads, p, p)`."""
        places = self.window_size[0] * self.window_size[1]
        if self.is_cosine:
            table: Tensor = self.cpb_mlp(self.relative_coords_table).reshape(-1, self.num_heads)
        else:
            table = self.relative_position_bias_table
        bias = table[self.relative_position_index].reshape(places, places, -1).permute(2, 0, 1)
        return 16 * torch.sigmoid(bias) if self.is_cosine else bias


def windows_of(x: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """Return the windows of padded and shifted images.

    This and the next two are functions that symbolic tracing does not look into.

    Args:
        x: `(N, H, W, C)`.
        window: Height and width of a window.
        shift: By which the images are shifted along both axes, where there are several windows.

    Returns:
        Shape `(N · windows, places, C)`.
    """
    rows, columns = window
    (height, width), shifts = _grid(x, window, shift)
    x = F.pad(x, (0, 0, 0, width - x.shape[2], 0, height - x.shape[1]))
    x = torch.roll(x, [-n for n in shifts], (1, 2)) if any(shifts) else x
    x = x.reshape(x.shape[0], height // rows, rows, width // columns, columns, -1)
    return x.transpose(2, 3).reshape(-1, rows * columns, x.shape[-1])


def joined(y: Tensor, x: Tensor, window: list[int], shift: list[int]) -> Tensor:
    """Return images from windows: what `windows_of` did is undone.

    Args:
        y: `(N · windows, places, C)`.
        x: The images that the windows are of.
        window: As in `windows_of`.
        shift: As in `windows_of`.
    """
    rows, columns = window
    (height, width), shifts = _grid(x, window, shift)
    y = y.reshape(x.shape[0], height // rows, width // columns, rows, columns, -1)
    y = y.transpose(2, 3).reshape(x.shape[0], height, width, -1)
    y = torch.roll(y, shifts, (1, 2)) if any(shifts) else y
    return y[:, : x.shape[1], : x.shape[2]].contiguous()


def mixed(
    qkv: Tensor,
    x: Tensor,
    window: list[int],
    shift: list[int],
    position_bias: Tensor,
    qkv_bias: Tensor | None,
    logit_scale: Tensor | None,
    dropout: float,
) -> Tensor:
    """Return what the places of each window take from one another.

    Args:
        qkv: Queries, keys and values, `(N · windows, places, 3 · C)`.
        x: The images that the windows are of.
        window: As in `windows_of`.
        shift: As in `windows_of`.
        position_bias: What is added to the scores, `(num_heads, places, places)`.
        qkv_bias: Of queries and values, in the second version.
        logit_scale: Logarithm of what the cosines are multiplied by there, or None.
        dropout: Probability at which a weight is dropped now.
    """
    n_heads = position_bias.shape[0]
    parts = qkv.reshape(*qkv.shape[:2], 3, n_heads, -1)
    q, k, v = parts.permute(2, 0, 3, 1, 4)  # (N · windows, num_heads, places, head_dim) each
    if logit_scale is None:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    else:
        if qkv_bias is not None:
            biases = qkv_bias.reshape(3, n_heads, 1, -1)
            q, v = q + biases[0], v + biases[2]
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * logit_scale.clamp(max=math.log(100.0)).exp()
    scores = scores + position_bias
    apart = _apart(x, window, shift)
    if apart is not None:
        mask = torch.zeros_like(apart, dtype=qkv.dtype).masked_fill(apart, FORBIDDEN)
        by_image = scores.reshape(-1, mask.shape[0], *scores.shape[1:])
        scores = (by_image + mask.unsqueeze(1)).reshape(scores.shape)
    y: Tensor = F.dropout(scores.softmax(dim=-1), dropout) @ v
    return y.transpose(1, 2).flatten(2)


torch.fx.wrap("windows_of")
torch.fx.wrap("joined")
torch.fx.wrap("mixed")


def _grid(x: Tensor, window: list[int], shift: list[int]) -> tuple[tuple[int, int], list[int]]:
    """Return the padded height and width, and by how much each axis is shifted."""
    height, width = (n + -n % extent for n, extent in zip(x.shape[1:3], window, strict=True))
    triples = zip(shift, window, (height, width), strict=True)
    return (height, width), [0 if extent >= n else by for by, extent, n in triples]


def _apart(x: Tensor, window: list[int], shift: list[int]) -> Tensor | None:
    """Return which places of a window are not neighbours in the image, `(windows, p, p)`.

    A shift brings places from the other side of the image into the last windows.
    """
    sizes, shifts = _grid(x, window, shift)
    if not any(shifts):
        return None
    numbers = []
    for size, extent, by in zip(sizes, window, shifts, strict=True):
        of_axis = x.new_zeros(size)
        if by:
            of_axis[-extent:-by], of_axis[-by:] = 1, 2
        numbers.append(of_axis)
    rows, columns = window
    regions = 3 * numbers[0].unsqueeze(1) + numbers[1]
    regions = regions.reshape(-1, rows, sizes[1] // columns, columns).transpose(1, 2)
    regions = regions.reshape(-1, rows * columns)
    return regions.unsqueeze(1) != regions.unsqueeze(2)
