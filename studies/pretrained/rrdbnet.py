"""The super-resolution network RRDBNet, and its weights from a package."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.pretrained.ncnn import fill, read_ncnn
from studies.pretrained.srvggnet import realesrgan_files

SLOPE = 0.2
"""Of the leaky ReLU."""

RESIDUAL = 0.2
"""What a block adds to its input is scaled by it."""

N_BLOCKS = {"realesrgan-x4plus": 23, "realesrgan-x4plus-anime": 6}


class DenseBlock(nn.Module):
    """Five convolutions, each of which takes in all that those before it put out.

    Args:
        n_features: Channels in and out.
        n_growth: Channels that each convolution but the last adds.
    """

    def __init__(self, n_features: int, n_growth: int) -> None:
        super().__init__()
        widths = [n_features + k * n_growth for k in range(5)]
        growing = (nn.Conv2d(width, n_growth, 3, padding=1) for width in widths[:-1])
        self.convolutions = nn.ModuleList(
            [*growing, nn.Conv2d(widths[-1], n_features, 3, padding=1)]
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, `(N, n_features, H, W)`."""
        *growing, last = self.convolutions
        known = x
        for convolution in growing:
            known = torch.cat((known, F.leaky_relu(convolution(known), SLOPE)), dim=1)
        residual: Tensor = last(known)
        return x + RESIDUAL * residual


class RRDB(nn.Sequential):
    """Three dense blocks, the residual of whose row is scaled once more."""

    def __init__(self, n_features: int, n_growth: int) -> None:
        super().__init__(*(DenseBlock(n_features, n_growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the shape of `x`, `(N, n_features, H, W)`."""
        return x + RESIDUAL * super().forward(x)


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks, then twice a magnification by two.

    Args:
        n_blocks: Of three dense blocks each.
        n_features: Channels between the blocks.
        n_growth: As in `DenseBlock`.

    Reference:
        Wang et al.: ESRGAN, arXiv 1809.00219; Wang, Xie, Dong, Shan: Real-ESRGAN, arXiv
        2107.10833.
    """

    def __init__(self, n_blocks: int, n_features: int = 64, n_growth: int = 32) -> None:
        super().__init__()

        def convolution(n_inputs: int = n_features, n_outputs: int = n_features) -> nn.Conv2d:
            return nn.Conv2d(n_inputs, n_outputs, 3, padding=1)

        self.first = convolution(n_inputs=3)
        self.body = nn.Sequential(*(RRDB(n_features, n_growth) for _ in range(n_blocks)))
        self.after_body = convolution()
        self.magnifying = nn.ModuleList([convolution(), convolution()])
        self.fine = convolution()
        self.last = convolution(n_outputs=3)

    def forward(self, x: Tensor) -> Tensor:
        """Magnify images `(N, 3, H, W)` in [0, 1] fourfold."""
        features = self.first(x)
        features = features + self.after_body(self.body(features))
        for convolution in self.magnifying:
            larger = F.interpolate(features, scale_factor=2.0, mode="nearest")
            features = F.leaky_relu(convolution(larger), SLOPE)
        put_out: Tensor = self.last(F.leaky_relu(self.fine(features), SLOPE))
        return put_out


def realesrgan(name: str) -> RRDBNet:
    """Return a network for fourfold magnification that the package carries, in eval mode.

    Args:
        name: A key of `N_BLOCKS`.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its files hold another network.
    """
    model = RRDBNet(N_BLOCKS[name])
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    fill(convolutions, read_ncnn(*realesrgan_files(name)))
    return model.eval()
