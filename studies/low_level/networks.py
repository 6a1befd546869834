"""The networks SRResNet and EDSR, as published."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

MEAN = (0.4488, 0.4371, 0.4040)
"""Of the training images of DIV2K, which EDSR takes from its input."""


class SRResNet(nn.Module):
    """Residual blocks with batch norm at the small size, then pixels are shuffled.

    Args:
        scale: 2, 3 or 4: the output is as many times as high and as wide as the input.
        n_blocks: Residual blocks.
        n_features: Channels.

    Raises:
        ValueError: If the scale is another.

    Reference:
        Ledig et al., arXiv 1609.04802, figure 4, the generator.
    """

    def __init__(self, scale: int, n_blocks: int = 16, n_features: int = 64) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, n_features, 9, padding=4), nn.PReLU(n_features))
        self.blocks = nn.Sequential(*(_NormedBlock(n_features) for _ in range(n_blocks)))
        self.last = nn.Sequential(_conv(n_features, bias=False), nn.BatchNorm2d(n_features))
        self.upsampler = _upsampler(n_features, scale, lambda: nn.PReLU(n_features))
        self.tail = nn.Conv2d(n_features, 3, 9, padding=4)

    def forward(self, x: Tensor) -> Tensor:
        """Magnify images `(N, 3, H, W)` in [0, 1]."""
        x = self.head(x)
        output: Tensor = self.tail(self.upsampler(x + self.last(self.blocks(x))))
        return output


class EDSR(nn.Module):
    """Residual blocks without batch norm at the small size, then pixels are shuffled.

    Args:
        scale: 2, 3 or 4: the output is as many times as high and as wide as the input.
        n_blocks: Residual blocks.
        n_features: Channels.

    Raises:
        ValueError: If the scale is another.

    Reference:
        Lim et al., arXiv 1707.02921, figure 3; blocks of 128 channels as in Li et al., Learning
        filter basis for convolutional neural network compression, arXiv 1908.08932. The sums of
        the baseline are not scaled.
    """

    mean: Tensor

    def __init__(self, scale: int, n_blocks: int = 8, n_features: int = 128) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.head = nn.Conv2d(3, n_features, 3, padding=1)
        self.blocks = nn.Sequential(*(_PlainBlock(n_features) for _ in range(n_blocks)))
        self.last = _conv(n_features)
        self.upsampler = _upsampler(n_features, scale, nn.Identity)
        self.tail = nn.Conv2d(n_features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Magnify images `(N, 3, H, W)` in [0, 1]."""
        x = self.head(x - self.mean)
        output: Tensor = self.tail(self.upsampler(x + self.last(self.blocks(x)))) + self.mean
        return output


NETWORKS: dict[str, Callable[[int], nn.Module]] = {"srresnet": SRResNet, "edsr_8_128": EDSR}
"""Name -> from a scale to the network with fresh weights."""

BLOCKS = "blocks.*"
"""Pattern of the layers that are compressed: those of the residual blocks."""


class _NormedBlock(nn.Module):
    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_features, bias=False)
        self.norm1 = nn.BatchNorm2d(n_features)
        self.prelu = nn.PReLU(n_features)
        self.conv2 = _conv(n_features, bias=False)
        self.norm2 = nn.BatchNorm2d(n_features)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.prelu(self.norm1(self.conv1(x)))
        added: Tensor = x + self.norm2(self.conv2(inner))
        return added


class _PlainBlock(nn.Module):
    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.conv1 = _conv(n_features)
        self.relu = nn.ReLU()
        self.conv2 = _conv(n_features)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.conv2(self.relu(self.conv1(x)))
        return added


def _conv(n_features: int, n_outputs: int | None = None, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(n_features, n_outputs or n_features, 3, padding=1, bias=bias)


def _upsampler(n_features: int, scale: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Return the stages: one of 3, or one of 2 or two."""
    stages = {2: (2,), 3: (3,), 4: (2, 2)}
    if scale not in stages:
        raise ValueError(f"`scale` must be 2, 3 or 4, got {scale}.")
    layers: list[nn.Module] = []
    for stage in stages[scale]:
        wide = _conv(n_features, n_features * stage**2)
        layers += [wide, nn.PixelShuffle(stage), activation()]
    return nn.Sequential(*layers)


def blocks_weights(model: nn.Module) -> int:
    """Return how many weights the convolutions of the residual blocks have, biases left out."""
    blocks = model.get_submodule("blocks")
    return sum(m.weight.numel() for m in blocks.modules() if isinstance(m, nn.Conv2d))
