"""A compressed network of torch's own modules, for tools that look at the classes of modules."""

from __future__ import annotations

from torch import nn

from sekron.layers.factorized import Factorized
from sekron.layers.plain import plain, reason_to_keep, reshapes
from sekron.network.copying import copy_of
from sekron.network.swap import swap


def to_plain(model: nn.Module) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy of a compressed network in which factorized layers are torch's own modules.

    Every layer becomes an `nn.Sequential` of its steps: convolutions or linear layers with the same
    numbers, the bias in the last. So tools that go by the class of a module, or read the code of
    its forward pass, see what they know: fusion with batch norm, pruning, quantization, `torch.fx`,
    `torch.jit.script`. The weight and the bias of the sequence are those of its last step, so that
    `fuse_conv_bn_eval(block.conv, block.bn)` fuses it whole. A structure of one factor becomes the
    convolution or the linear layer itself.

    A network may read of a layer what it may read of a factorized one: `stride`, `padding`,
    `dilation`, `padding_mode` and `output_padding` are those of the whole, but in the form that
    runs, `padding` in numbers, where the structure is of one factor.

    Between the steps of a structure that divides channels, or lets a factor serve several ranks at
    once, channels are reshaped: by `nn.Unflatten` and `nn.Flatten`, and where torch has no module
    for it by a small one of ours. Such layers too can be traced, scripted and quantized. But they
    cannot be fused, convolutions among them take no image without a batch, and what changes the
    number of channels has to leave them and the layers before them alone.

    The plan is lost: `sekron.save` writes a plain network without one, so that `sekron.load` cannot
    rebuild it, and `repair`, `tune` and `refit` find no layers. Do all that before, on the
    compressed network. A sequence does not take the `output_size` of a transposed convolution.

    Args:
        model: With factorized layers; not modified, and nothing is shared with the copy.

    Returns:
        The network, and layer name -> why something of ours stays there: in layers whose channels
        are reshaped, and in those that may compute something else than their structure says.

    Example:
        >>> from sekron import Plan, Structure
        >>> plan = Plan({"0": Structure.parse("chain:16x1x3x1,1x8x1x3@4")})
        >>> small = plan.apply(nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU()))
        >>> network, kept = to_plain(small)
        >>> network[0]
        PlainSequence(
          (0): Conv2d(8, 4, kernel_size=(1, 3), stride=(1, 1), bias=False)
          (1): Conv2d(4, 16, kernel_size=(3, 1), stride=(1, 1))
        )
        >>> kept
        {}
    """
    network = copy_of(model)
    layers: dict[str, nn.Module] = {}
    kept: dict[str, str] = {}
    for name, layer in network.named_modules():
        if not isinstance(layer, Factorized):
            continue
        reason = reason_to_keep(layer)
        if reason:
            kept[name] = f"stays {type(layer).__name__}: {reason}"
            continue
        layers[name] = plain(layer)
        if reshapes(layers[name]):
            kept[name] = f"channels are reshaped between the steps of {layer.structure}"
    return swap(network, layers), kept
