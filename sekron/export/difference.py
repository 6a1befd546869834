"""How far two runs of one network are from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest relative difference at which the outputs of two runtimes count as the same."""


def largest_difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference, relative to the largest number of the same output.

    Args:
        outputs: The tensors that a network put out.
        expected: The same ones of another run.

    Returns:
        Zero for equal ones; infinity where number or shapes are others, or only one is NaN.

    Example:
        >>> largest_difference([torch.tensor([1.0, 3.0])], [torch.tensor([1.0, 4.0])])
        0.25
    """
    if len(outputs) != len(expected):
        return math.inf
    return max(map(_difference, outputs, expected), default=0.0)


def _difference(output: Tensor, expected: Tensor) -> float:
    if output.shape != expected.shape:
        return math.inf
    a, b = output.detach().cpu().double(), expected.detach().cpu().double()
    apart = (a - b).abs()[~((a == b) | (a.isnan() & b.isnan()))]
    if not len(apart):
        return 0.0
    largest = b[b.isfinite()].abs().amax() if b.isfinite().any() else torch.zeros((), device="cpu")
    difference = float(apart.amax() / largest)
    return difference if math.isfinite(difference) else math.inf
