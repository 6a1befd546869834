"""A factorized layer as a sequence of torch's own modules, one for each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from math import prod
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from sekron.layers.conv import SeKronConv, SeKronConv2d
from sekron.layers.factorized import Factorized, take_over
from sekron.layers.linear import SeKronLinear
from sekron.layers.operations import Operation, Rearrangement
from sekron.layers.reshaping import Bias, GroupedLinear, Rearranged
from sekron.layers.sequence import PlainSequence
from sekron.layers.transposed import SeKronConvTranspose

PADS = {
    "zeros": (nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d),
    "reflect": (nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d),
    "replicate": (nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d),
    "circular": (nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d),
}
"""Padding mode -> modules for one, two and three spatial axes."""

KEEP_CHANNELS = (_ConvNd, nn.Linear, *chain(*PADS.values()))
"""Modules between which the channels are what they are: nothing reshapes them."""


def plain(layer: Factorized) -> nn.Module:
    """Return a layer as torch's modules in a row, which take over its very parameters.

    Args:
        layer: Of one of our classes, unchanged: see `reason_to_keep`. Not to be used any more.
    """
    modules = _MAKERS[type(layer)](layer)
    last = modules[-1]
    if layer.bias is not None:
        if isinstance(last, _ConvNd | nn.Linear):
            last.bias = layer.bias
        else:
            modules.append(Bias(layer.bias, len(layer.structure.weight_shape) - 2))
    if len(modules) == 1:
        return take_over(layer, last)
    has_weight = all(isinstance(module, KEEP_CHANNELS) for module in modules)
    sequence = take_over(layer, (PlainSequence if has_weight else nn.Sequential)(*modules))
    for name in layer.options if isinstance(layer, SeKronConv) else ():
        setattr(sequence, name, getattr(layer, name))  # a network may read its stride, say
    return sequence


def reason_to_keep(layer: Factorized) -> str:
    """Return why a layer cannot be made plain; empty if it can."""
    kind = type(layer)
    if kind not in _MAKERS:
        return f"{kind.__name__} may not compute what its base class does"
    if "forward" in vars(layer):
        return "its forward was replaced by another function"
    expected = {f"weights.{i}" for i in range(len(layer.operations))}
    found = dict(layer.named_parameters())
    is_odd = any(type(parameter) is not nn.Parameter for parameter in found.values())
    if is_odd or set(found) - {"bias"} != expected:
        return "its weights are computed from other parameters, or are no plain tensors"
    return ""


def reshapes(module: nn.Module) -> bool:
    """Whether a plain layer holds anything but paddings, convolutions and linear maps."""
    return isinstance(module, nn.Sequential) and not isinstance(module, PlainSequence)


def _convolution(layer: SeKronConv) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for operation, weight in zip(layer.operations, layer.weights, strict=True):
        fold, groups, before, after = _folding(operation)
        padding, pads = _padding(layer, operation)
        conv = _conv(
            layer,
            weight,
            (groups * weight.shape[1], weight.shape[0]),
            groups=groups,
            stride=operation.stride,
            padding=padding,
            padding_mode=layer.padding_mode if any(padding) else "zeros",
            dilation=operation.dilation,
        )
        modules += _rearranged(layer.n_axes, operation.before, before)
        modules += _folded([*(_pad(layer.padding_mode, pads) if pads else []), conv], fold)
        modules += _rearranged(layer.n_axes, after)
    return modules + _rearranged(layer.n_axes, layer.after)


def _transposed(layer: SeKronConvTranspose) -> list[nn.Module]:
    """Go through the steps of the convolution backwards.

    The rows of `output_padding` are zeros behind all that a step puts out: the step with the stride
    adds them, and it does not matter that one further on crops the padding.
    """
    modules = _rearranged(layer.n_axes, _inverse(layer.after))
    for k, operation in reversed(list(enumerate(layer.operations))):
        weight = layer.weights[k]
        fold, groups, before, after = _folding(operation)
        padding, pads = _padding(layer, operation)
        rows = [
            n if _strided(layer, axis) == k else 0 for axis, n in enumerate(layer.output_padding)
        ]
        axes = zip(operation.dilation, operation.stride, rows, strict=True)
        conv = _conv(
            layer,
            weight,
            (weight.shape[0], groups * weight.shape[1]),
            groups=groups,
            stride=operation.stride,
            padding=padding,
            output_padding=tuple(rows),
            # Torch wants less padding than stride or dilation; on an extent of 1 that is no matter.
            dilation=tuple(d if n < s else max(d, n + 1) for d, s, n in axes),
        )
        cropped = _pad("zeros", [(-low, -high) for low, high in pads]) if pads else []
        modules += _rearranged(layer.n_axes, _inverse(after))
        modules += _folded([conv, *cropped], fold)
        modules += _rearranged(layer.n_axes, _inverse(before), _inverse(operation.before))
    return modules


def _linear(layer: SeKronLinear) -> list[nn.Module]:
    modules: list[nn.Module] = []
    for operation, weight in zip(layer.operations, layer.weights, strict=True):
        modules += _rearranged(0, operation.before)
        if operation.groups > 1:
            linear: nn.Module = GroupedLinear(weight, operation.groups)
        else:
            n_out, n_in = weight.shape
            linear = nn.Linear(n_in, n_out, bias=False, device="meta")
            linear.weight = weight
        if operation.fold > 1:
            modules += [nn.Unflatten(-1, (operation.fold, -1)), linear, nn.Flatten(-2)]
        else:
            modules.append(linear)
    return modules + _rearranged(0, layer.after)


_MAKERS: dict[type[nn.Module], Callable[[Any], list[nn.Module]]] = {
    SeKronConv: _convolution,
    SeKronConv2d: _convolution,
    SeKronConvTranspose: _transposed,
    SeKronLinear: _linear,
}
"""Class of a layer -> its steps as modules, without the bias."""


def _conv(
    layer: SeKronConv, weight: nn.Parameter, channels: tuple[int, int], **options: Any
) -> _ConvNd:
    kind: Callable[..., _ConvNd] = layer.dense[layer.n_axes]
    # Without a device, nothing is drawn for a weight that is replaced at once.
    conv = kind(*channels, tuple(weight.shape[2:]), bias=False, device="meta", **options)
    conv.weight = weight
    return conv


def _padding(
    layer: SeKronConv, operation: Operation
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return the padding that a convolution can do itself, or how far it goes before and after.

    Rows that no output reads are not cropped as the layer does: that saves work, not numbers.
    """
    margins = [m if p else (0, 0) for m, p in zip(layer.margins, operation.pads, strict=True)]
    if all(low == high for low, high in margins):
        return tuple(low for low, _ in margins), []
    return (0,) * len(margins), margins


def _pad(mode: str, margins: Sequence[tuple[int, int]]) -> list[nn.Module]:
    kind: Callable[..., nn.Module] = PADS[mode][len(margins) - 1]
    return [kind(tuple(side for margin in reversed(margins) for side in margin))]


def _strided(layer: SeKronConv, axis: int) -> int:
    """Return the operation to which the stride along an axis belongs."""
    extended = [k for k, o in enumerate(layer.operations) if o.weight_shape[2 + axis] > 1]
    return extended[-1] if extended else 0


def _inverse(permutation: Rearrangement | None) -> Rearrangement | None:
    return None if permutation is None else permutation.inverse


def _rearranged(n_axes: int, *permutations: Rearrangement | None) -> list[nn.Module]:
    """Return what permutes the channels, which so many axes follow."""
    axis = -1 - n_axes
    return [Rearranged(p.sizes, p.permutation, axis) for p in permutations if p is not None]


def _folded(modules: list[nn.Module], fold: int) -> list[nn.Module]:
    """Return modules that run on channels folded into the batch."""
    if fold == 1:
        return modules
    before = [nn.Unflatten(1, (fold, -1)), nn.Flatten(0, 1)]
    return [*before, *modules, nn.Unflatten(0, (-1, fold)), nn.Flatten(1, 2)]


def _folding(
    operation: Operation,
) -> tuple[int, int, Rearrangement | None, Rearrangement | None]:
    """Return fold and groups of an operation, and the permutations before and after it.

    A layer repeats a weight that serves several groups whenever it runs. To store the copies would
    untie them, so these groups are folded into the batch, which takes the weight as it is.
    """
    if operation.repeats is None:
        return operation.fold, operation.groups, None, None
    n_modes = len(operation.weight_shape)
    pairs = list(zip(*operation.repeats, strict=True))[:-n_modes]
    kept = [(stored, size) for stored, size in pairs if size > 1]
    order = sorted(range(len(kept)), key=lambda axis: kept[axis][0] > 1)
    groups, fold = prod(n for n, _ in kept), prod(size for stored, size in kept if stored == 1)
    if order == list(range(len(kept))):
        return fold, groups, None, None
    n_in, n_out = operation.weight_shape[1], operation.weight_shape[0] // groups
    sizes, permutation = [size for _, size in kept], (*order, len(order))
    before = Rearrangement((*sizes, n_in), permutation)
    after = Rearrangement((*sizes, n_out), permutation).inverse
    return fold, groups, before, after
