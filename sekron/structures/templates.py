"""The decompositions that practitioners write by hand, as factor shapes of our space."""

from __future__ import annotations

from sekron.structures.families import Point, Shape


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


def gkpd(weight_shape: Shape, first: Shape) -> Point:
    """Return the generalized Kronecker product decomposition with a given first factor.

    Raises:
        ValueError: If the shape of the first factor does not divide the weight's.

    Reference:
        Hameed et al., Convolutional neural network compression through generalized Kronecker
        product decomposition, arXiv 2109.14710.
    """
    if len(first) != len(weight_shape) or any(
        size % factor for size, factor in zip(weight_shape, first, strict=True)
    ):
        raise ValueError(f"the first factor must divide {weight_shape}, got {first}.")
    second = tuple(size // factor for size, factor in zip(weight_shape, first, strict=True))
    return "sekron", (tuple(first), second)
