"""A row of convolutions or linear layers that can be fused with the batch norm behind it."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn


class PlainSequence(nn.Sequential):
    """Convolutions or linear layers in a row, whose weight and bias are those of the last.

    What scales or shifts the outputs of a layer does so through its weight and bias. So
    `torch.nn.utils.fuse_conv_bn_eval(block.conv, block.bn)`, and all `fuse()` like it that change a
    copy of a convolution or the convolution itself, need not know that it has become a sequence.
    What makes a new `nn.Conv2d` from the attributes of the old one finds no `in_channels`, no
    `kernel_size` and no `groups`: no one convolution has the weight of all steps.

    Args:
        modules: Steps of a layer; the last is a convolution or a linear layer.
    """

    __jit_unused_properties__: ClassVar[list[str]] = [
        "weight",
        "bias",
        "out_channels",
        "out_features",
    ]

    @property
    def weight(self) -> Any:
        """Weight of the last step."""
        return self[-1].weight

    @property
    def bias(self) -> Any:
        """Bias of the last step, which is that of the whole."""
        return self[-1].bias

    @bias.setter
    def bias(self, value: nn.Parameter | None) -> None:
        setattr(self[-1], "bias", value)  # noqa: B010  typed as a tensor or a module

    @property
    def out_channels(self) -> Any:
        """Number of channels that come out of convolutions."""
        return self[-1].out_channels

    @property
    def out_features(self) -> Any:
        """Number of features that come out of linear layers."""
        return self[-1].out_features

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Give a weight or a bias to the last step; so does an assignment."""
        if name in ("weight", "bias"):
            self[-1].register_parameter(name, param)
        else:
            super().register_parameter(name, param)
