"""The decompositions that practitioners write by hand, as factor shapes of our space."""

from __future__ import annotations

from collections.abc import Callable

from sekron.structure import Point, Shape


def tucker2(weight_shape: Shape) -> Point:
    """Return Tucker-2: a 1×1, a k×k and a 1×1 convolution.

    Reference:
        Kim et al., Compression of deep convolutional neural networks, arXiv 1511.06530.
    """
    out_channels, in_channels, *kernel = weight_shape
    ones = [1] * len(kernel)
    shapes = ((out_channels, 1, *ones), (1, 1, *kernel), (1, in_channels, *ones))
    return "chain", shapes


def spatial_svd(weight_shape: Shape) -> Point:
    """Return spatial SVD: a 1×k convolution to the rank, a k×1 convolution to the output.

    Reference:
        Jaderberg et al., Speeding up convolutional neural networks, arXiv 1405.3866.
    """
    out_channels, in_channels, *kernel = weight_shape
    height, width = kernel[:1], kernel[1:]
    return "sekron", (
        (out_channels, 1, *height, *[1] * len(width)),
        (1, in_channels, *[1] * len(height), *width),
    )


def channel_svd(weight_shape: Shape) -> Point:
    """Return channel SVD: a k×k convolution to the rank, a 1×1 convolution to the output.

    Reference:
        Zhang et al., Accelerating very deep convolutional networks, arXiv 1505.06798.
    """
    out_channels, in_channels, *kernel = weight_shape
    return "sekron", ((out_channels, 1, *[1] * len(kernel)), (1, in_channels, *kernel))


BASELINES: dict[str, Callable[[Shape], Point]] = {
    "tucker2": tucker2,
    "spatial_svd": spatial_svd,
    "channel_svd": channel_svd,
}
"""Name -> family and factor shapes for the weight of a convolution."""
