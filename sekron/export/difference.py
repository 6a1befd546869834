"""How far two runs of one network are from each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

TOLERANCE = 1e-4
"""Largest relative difference at which the outputs of two runtimes count as the same."""


def largest_difference(
    outputs: Sequence[Tensor], expected: Sequence[Tensor], *, in_half: bool = False
) -> float:
    """Return the largest difference, relative to the largest number of the same output.

    Integers and truth values are exact: theirs is how far they are apart, which is 1 or more.

    Args:
        outputs: The tensors that a network put out.
        expected: The same ones of another run.
        in_half: Whether one of the runs is in half precision, where integers too may be others, as
            the place of the largest of two close numbers is; they count like any numbers then.

    Returns:
        Zero for equal ones; infinity where number, shapes or kinds of number (real, complex,
        integer) are others, or only one is NaN. Their precision may be another.

    Example:
        >>> largest_difference([torch.tensor([1.0, 3.0])], [torch.tensor([1.0, 4.0])])
        0.25
        >>> largest_difference([torch.tensor([50_005])], [torch.tensor([50_000])])
        5.0
    """
    if len(outputs) != len(expected):
        return math.inf
    pairs = zip(outputs, expected, strict=True)
    return max((_difference(a, b, in_half) for a, b in pairs), default=0.0)


def _difference(output: Tensor, expected: Tensor, in_half: bool) -> float:
    if output.shape != expected.shape or _kind(output) != _kind(expected):
        return math.inf
    is_exact = not any(_kind(expected)) and not in_half
    if is_exact and torch.equal(output.cpu().long(), expected.cpu().long()):
        return 0.0
    a, b = _numbers(output), _numbers(expected)
    if is_exact:
        return max(1.0, float((a - b).abs().amax()))  # in fp64 large ones may seem equal
    apart = (a - b).abs()[~((a == b) | (a.isnan() & b.isnan()))]
    if not len(apart):
        return 0.0
    largest = b[b.isfinite()].abs().amax() if b.isfinite().any() else torch.zeros((), device="cpu")
    difference = float(apart.amax() / largest)
    return difference if math.isfinite(difference) else math.inf


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _numbers(tensor: Tensor) -> Tensor:
    """Return real numbers in fp64 on the CPU, of a complex one both parts."""
    tensor = tensor.detach().cpu()
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex128).resolve_conj())
    return tensor.double()
