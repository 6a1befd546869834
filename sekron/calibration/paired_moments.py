"""What a layer gets in the compressed network, beside what it gets in the dense one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sekron.calibration.layer_inputs import InputsAhead, paired_inputs
from sekron.calibration.patches import Positions, drawn, inputs_at, rows_needed
from sekron.decomposition.own_precision import in_own_precision

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
) -> PairedMoments | None:
    """Pass batches through both networks up to a layer, and collect the moments of its input.

    The compressed network changes with every layer, and runs again for each. Where there are more
    positions than the moments need, some batches are left out evenly, and positions of the others
    at random.

    Args:
        name: Name of the layer.
        dense: The inputs of the dense network's layers, for some batches.
        compressed: The compressed network, in the mode in which it shall run.
        largest_patch: Of a layer whose kernel takes at most that many numbers in, whole patches
            are collected instead of channels.

    Returns:
        The moments; None where the layer gets nothing of the first batch, or another number of
        images than in the dense network.
    """
    module = dense.network.get_submodule(name)

    def pairs_of(place: int) -> list[tuple[Positions, Positions]] | None:
        pairs = paired_inputs(name, dense, compressed, place)
        if pairs is None:
            return None
        return [
            (inputs_at(module, x, largest_patch), inputs_at(module, other, largest_patch))
            for x, other in pairs
        ]

    first = pairs_of(0)
    n_positions = sum(own.count for own, _ in first or ())
    if not (first and n_positions):
        return None
    needed = rows_needed(first[0][0].width)
    count = min(max(math.ceil(needed / n_positions), FEWEST_BATCHES), len(dense.batches))
    generator = torch.Generator().manual_seed(0)
    sums: list[Tensor] = []
    n_rows = 0
    for place in (round(i * len(dense.batches) / count) for i in range(count)):
        pairs = first if place == 0 else pairs_of(place)
        if pairs is None:
            return None
        for own, other in pairs:
            chosen = drawn(own, own.count / n_positions / count, generator)
            for a, b in zip(own.rows(chosen), other.rows(chosen), strict=True):
                with in_own_precision(a):
                    terms = (a.mT @ b, b.mT @ b, a.sum(dim=-2), b.sum(dim=-2))
                exact = [term.double() for term in terms]
                sums = exact if not sums else [s + t for s, t in zip(sums, exact, strict=True)]
                n_rows += a.shape[-2]
    cross, square, mean, other_mean = (total / n_rows for total in sums)
    return PairedMoments(
        cross - mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        square - other_mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        mean,
        other_mean,
    )
