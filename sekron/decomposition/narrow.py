"""Factors in the dtype of their layer, whose range may be narrow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

COMFORTABLE = range(-8, 14)
"""Exponents of the largest number of a factor that `float16` holds well: it overflows at 2¹⁶, and
below 2⁻¹⁴ it loses digits."""


def narrowed(factors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Cast factors, without that one overflows or vanishes while their product would not.

    Where that threatens, they are first multiplied by powers of two whose product is one, such that
    their largest numbers are about alike. No product of them changes but by the rounding.

    Args:
        factors: As `decompose` returns them, or in the layout of a layer.
        dtype: What they are cast to.
    """
    largest = [float(factor.detach().abs().max()) for factor in factors]
    if dtype == torch.float16 and all(0.0 < value < math.inf for value in largest):
        exponents = [math.frexp(value)[1] for value in largest]
        if not all(exponent in COMFORTABLE for exponent in exponents):
            mean, rest = divmod(sum(exponents), len(exponents))
            shifts = [mean - exponent for exponent in exponents]
            shifts[0] += rest
            factors = [f * 2.0**shift for f, shift in zip(factors, shifts, strict=True)]
    return [factor.to(dtype) for factor in factors]
