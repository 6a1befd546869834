"""Gain and offset of every output channel in closed form, where no batch norm re-estimates them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from sekron.calibration.layer_inputs import InputsAhead, paired_inputs
from sekron.calibration.patches import PIECE
from sekron.decomposition.metric import Metric
from sekron.forward.evaluation import evaluating
from sekron.forward.inputs import Arguments
from sekron.layers.factorized import Factorized
from sekron.structures.families import whole_channels

RIDGE = 1e-3
"""What both second moments get added, relative to their mean over the channels.

So the gain of a channel that puts out next to nothing stays near 1."""


@dataclass(frozen=True, eq=False, slots=True)
class Channels:
    """Moments of what each channel puts out, y in the dense network and y′ in the compressed one.

    Attributes:
        mean: `E[y]`, fp64, as all are of shape `(channels,)`.
        other_mean: `E[y′]`.
        product: `E[y y′]`.
        other_square: `E[y′²]`.
    """

    mean: Tensor
    other_mean: Tensor
    product: Tensor
    other_square: Tensor

    def gain(self, is_centred: bool) -> Tensor:
        """Return the factor of y′ with the least squared error, with an offset or without."""
        cross, square = self.product, self.other_square
        if is_centred:
            cross = cross - self.mean * self.other_mean
            square = square - self.other_mean.square()
        ridge = (RIDGE * square.mean()).clamp_min(torch.finfo(square.dtype).tiny)
        return (cross + ridge) / (square + ridge)


def rescale(
    model: nn.Module,
    dense: nn.Module,
    layers: Mapping[str, Factorized],
    batches: Sequence[Arguments],
) -> None:
    """Give every channel of the layers the gain and the offset that fit the dense network best.

    Layer after layer, in the order of the mapping: each gets its input from those before it. The
    gain goes into the factor that holds the output channels, where one factor alone does; the
    offset goes into the bias, where there is one. A layer that gets another number of images, or
    of parts of them, than in the dense network is left as it is.

    Args:
        model: The compressed network, modified in place.
        dense: The network that it comes from.
        layers: Layer name -> factorized layer of the model, in the order in which they run.
        batches: Unlabelled inputs.
    """
    with evaluating(model), evaluating(dense):
        inputs = InputsAhead(dense, list(layers), batches)
        for name, layer in layers.items():
            found = _channels(name, inputs, model)
            if found is None:
                continue
            gain = torch.ones_like(found.mean)
            if (
                layer.structure.groups == 1
                and whole_channels(layer.structure.shapes)[layer.output_mode]
            ):
                gain = found.gain(layer.bias is not None)
                ones = gain.new_ones(layer.structure.weight_shape[1 - layer.output_mode])
                channels = Metric(ones, gain) if layer.output_mode else Metric(gain, ones)
                layer.set_factors(channels.magnify(layer.factors(), layer.structure))
            if layer.bias is not None:
                offset = found.mean - gain * found.other_mean
                layer.bias.data.copy_((gain * layer.bias + offset).to(layer.bias))


def _channels(name: str, dense: InputsAhead, model: nn.Module) -> Channels | None:
    """Collect the moments of what a layer puts out in both networks; None where it has no pairs."""
    sides = dense.network.get_submodule(name), model.get_submodule(name)
    # Where forward casts by itself, inputs may be in half precision and the weights are not.
    dtype = next(sides[1].parameters()).dtype
    sums: list[Tensor] = []
    n_rows = 0
    for place in range(len(dense.batches)):
        pairs = paired_inputs(name, dense, model, place)
        if pairs is None:
            return None
        for inputs in pairs:
            # Past the layer's hooks, which have made this input already.
            outputs = [side.forward(x.to(dtype)) for side, x in zip(sides, inputs, strict=True)]
            pieces = (_rows(sides[0], output) for output in outputs)
            for y, other in zip(*pieces, strict=True):
                # One after the other, so that a term is gone before the next one is made.
                totals = [y.sum(0), other.sum(0), (y * other).sum(0), other.square().sum(0)]
                sums = totals if not sums else [s + t for s, t in zip(sums, totals, strict=True)]
                n_rows += len(y)
    if n_rows == 0:
        return None
    return Channels(*(total / n_rows for total in sums))


def _rows(module: nn.Module, output: Tensor) -> Iterator[Tensor]:
    """Yield what a layer puts out as `(positions, channels)`, fp64, about `PIECE` numbers each."""
    channels = output if isinstance(module, nn.Linear) else output.movedim(1, -1)
    n_channels = channels.shape[-1]
    n_images = max(PIECE // max(prod(channels.shape[1:]), 1), 1)
    for images in torch.split(channels, n_images):
        # A single image may be larger than a piece.
        rows = images.reshape(-1, n_channels)
        yield from (piece.double() for piece in torch.split(rows, max(PIECE // n_channels, 1)))
