"""What a layer gets in the compressed network, beside what it gets in the dense one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor, nn

from sekron.calibration.layer_inputs import InputsAhead, layer_inputs
from sekron.calibration.patches import ROWS, rows_of_images

FEWEST_BATCHES = 4
"""Batches that are looked at in any case, from all places of the sequence."""


@dataclass(frozen=True, eq=False, slots=True)
class PairedMoments:
    """Moments of the input x of a layer in the dense network and x′ in the compressed one.

    They are centred, and means over all images, calls and positions. Of a grouped convolution
    there is a leading axis: one matrix per group.

    Attributes:
        cross: `E[(x − μ)(x′ − μ′)ᵀ]`, shape `(n, n)`, fp64: of whole patches, `n = in · kernel`,
            or of channels, `n = in`.
        compressed: `E[(x′ − μ′)(x′ − μ′)ᵀ]`, of the same shape.
        dense_mean: μ, shape `(n,)`.
        compressed_mean: μ′, shape `(n,)`.
    """

    cross: Tensor
    compressed: Tensor
    dense_mean: Tensor
    compressed_mean: Tensor


def paired_moments(
    name: str, dense: InputsAhead, compressed: nn.Module, largest_patch: int
) -> PairedMoments:
    """Pass batches through both networks up to a layer, and collect the moments of its input.

    The compressed network changes with every layer, and runs again for each. Of batches that hold
    far more positions than the moments need, some are left out evenly.

    Args:
        name: Name of the layer.
        dense: The inputs of the dense network's layers, for some batches.
        compressed: The compressed network, in the mode in which it shall run.
        largest_patch: Of a layer whose kernel takes at most that many numbers in, whole patches
            are collected instead of channels.
    """
    module, n_calls = dense.network.get_submodule(name), dict[str, int]()
    sums: list[Tensor] = []
    n_rows, places = 0, list(range(len(dense.batches)))
    while places:
        place = places.pop(0)
        own = dense.of(name, place)
        others = layer_inputs(compressed, [name], dense.batches[place], n_calls)[name]
        for x, other in zip(own, others, strict=True):
            pair = (rows_of_images(module, values, largest_patch) for values in (x, other))
            for (a, _), (b, _) in zip(*pair, strict=True):
                terms = (a.mT @ b, b.mT @ b, a.sum(dim=-2), b.sum(dim=-2))
                exact = [term.double() for term in terms]
                sums = exact if not sums else [s + t for s, t in zip(sums, exact, strict=True)]
                n_rows += a.shape[-2]
        if not n_calls:
            places = _spread(len(dense.batches), ROWS * sums[2].shape[-1] / n_rows)
        n_calls[name] = len(own)
    cross, square, mean, other_mean = (total / n_rows for total in sums)
    return PairedMoments(
        cross - mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        square - other_mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        mean,
        other_mean,
    )


def _spread(n_batches: int, needed: float) -> list[int]:
    """Return the places of so many batches, the first left out, evenly over all of them."""
    count = min(max(math.ceil(needed), FEWEST_BATCHES), n_batches)
    return [round(i * n_batches / count) for i in range(1, count)]
