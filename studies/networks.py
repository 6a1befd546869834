"""The residual networks for small images that the studies compress."""

import torch
from torch import Tensor, nn

STAGE_CHANNELS = (16, 32, 64)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions whose output is added to their input: `relu(F(x) + shortcut(x))`.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution, 1 or 2.
        squeeze: Whether channels are gated by their means before the sum.

    Example:
        >>> ResidualBlock(16, 32, stride=2)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 32, 4, 4])

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, figure 2.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int = 1, squeeze: bool = False
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.gate = SqueezeExcitation(out_channels) if squeeze else nn.Identity()
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Args:
            x: Feature maps of shape `(N, in_channels, H, W)`.

        Returns:
            Feature maps of shape `(N, out_channels, ceil(H / stride), ceil(W / stride))`, none
            negative.
        """
        residual = torch.relu(self.bn1(self.conv1(x)))  # (N, out_channels, H/stride, W/stride)
        residual = self.gate(self.bn2(self.conv2(residual)))
        return torch.relu(residual + self.shortcut(x))


class SqueezeExcitation(nn.Module):
    """Multiplies each channel by a gate in (0, 1) that all channels' means decide.

    Args:
        channels: Of the feature maps.
        reduction: Channels over the width between the two linear layers.

    Example:
        >>> SqueezeExcitation(16)(torch.zeros(2, 16, 8, 8)).shape
        torch.Size([2, 16, 8, 8])

    Reference:
        Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, section 3.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, channels // reduction)
        self.excite = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate feature maps of shape `(N, channels, H, W)`."""
        gates = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * gates[:, :, None, None]


class ResNet(nn.Module):
    """A residual network of `6 * blocks_per_stage + 2` layers for images of about 32x32.

    A 3x3 stem, three stages of residual blocks at 16, 32 and 64 channels, each stage after the
    first halving the image, then a global average and one linear layer.

    Args:
        blocks_per_stage: Residual blocks in each of the three stages.
        num_classes: Length of the output vector.
        in_channels: Channels of the images.
        squeeze: Whether its blocks have squeeze and excitation.

    Example:
        >>> ResNet(blocks_per_stage=1, num_classes=7)(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 7])

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """

    def __init__(
        self,
        blocks_per_stage: int,
        num_classes: int = 10,
        in_channels: int = 1,
        squeeze: bool = False,
    ) -> None:
        super().__init__()
        first, second, third = STAGE_CHANNELS
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks_per_stage, stride=1, squeeze=squeeze)
        self.layer2 = _stage(first, second, blocks_per_stage, stride=2, squeeze=squeeze)
        self.layer3 = _stage(second, third, blocks_per_stage, stride=2, squeeze=squeeze)
        self.fc = nn.Linear(third, num_classes)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: Images of shape `(N, in_channels, H, W)`.

        Returns:
            Logits of shape `(N, num_classes)`; the largest of a row names the predicted class.
        """
        x = torch.relu(self.bn1(self.conv1(images)))  # (N, 16, H, W)
        x = self.layer3(self.layer2(self.layer1(x)))  # (N, 64, H/4, W/4)
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))  # (N, num_classes)
        return logits

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet(
    depth: int, num_classes: int = 10, in_channels: int = 1, squeeze: bool = False
) -> ResNet:
    """Build the residual network of a given depth.

    Args:
        depth: Number of weighted layers on the longest path, `6n + 2` with n at least 1.
        num_classes: Length of the output vector.
        in_channels: Channels of the images.
        squeeze: Whether its blocks have squeeze and excitation.

    Returns:
        The network with fresh weights, drawn from torch's global generator.

    Raises:
        ValueError: If `depth` is not of the form `6n + 2`.

    Example:
        >>> len(resnet(8).layer1)
        1

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2.
    """
    blocks_per_stage, remainder = divmod(depth - 2, 6)
    if remainder or blocks_per_stage < 1:
        raise ValueError(f"`depth` must be 6n + 2 with n >= 1, got {depth}; try 20 or 32.")
    return ResNet(blocks_per_stage, num_classes, in_channels, squeeze)


def resnet20(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """Build ResNet-20, three residual blocks in each stage.

    Args:
        num_classes: Length of the output vector.
        in_channels: Channels of the images.

    Returns:
        The network with fresh weights.

    Example:
        >>> sum(parameter.numel() for parameter in resnet20().parameters())
        272186
    """
    return resnet(20, num_classes, in_channels)


def resnet32(num_classes: int = 10, in_channels: int = 1) -> ResNet:
    """Build ResNet-32, five residual blocks in each stage.

    Args:
        num_classes: Length of the output vector.
        in_channels: Channels of the images.

    Returns:
        The network with fresh weights.

    Example:
        >>> sum(parameter.numel() for parameter in resnet32().parameters())
        466618
    """
    return resnet(32, num_classes, in_channels)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    # The paper's option B, not the zero padding (A) of its CIFAR runs: a strided 1x1 convolution
    # is a layer that a compressor must handle, and fvcore counts it where it only warns of pads.
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _stage(
    in_channels: int, out_channels: int, n_blocks: int, stride: int, squeeze: bool
) -> nn.Sequential:
    first = ResidualBlock(in_channels, out_channels, stride, squeeze)
    rest = [ResidualBlock(out_channels, out_channels, squeeze=squeeze) for _ in range(n_blocks - 1)]
    return nn.Sequential(first, *rest)
