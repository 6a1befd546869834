"""Gram matrices, as far as eigenvalue solvers look at them, and their eigenvalues."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

BLOCK = 256
"""Rows that are computed at a time."""

COLUMNS = 2**13
"""Of a matrix in fp32 whose products are summed in it; sums of more columns are summed in fp64."""

LARGEST_DOUBLE, MOST_DOUBLE = 2048, 2**35
"""Size of an eigenvalue problem, and multiply-adds of its matrix, up to which both are in fp64;
of a weight in fp32 only sums are, and the problem.

A larger one is solved in fp32, in half of the time. What its first values sum up to is then off by
about 1e-6 of all of them, which a relative error of an approximation above 0.01 does not show."""

WIDE = 2**24
"""Numbers of a weight from which on it is decomposed in fp32, if that is what it is stored in.

Most of its eigenvalue problems are solved in fp32 anyway, and twice the memory would be moved."""

SAFE = 1e12
"""Largest number, or inverse of it, whose square fp32 holds with room for sums."""


def gram(matrices: Tensor) -> Tensor:
    """Return the lower triangle of `matrices @ matrices.mT`; what is above it means nothing.

    `torch.linalg.eigh` reads no more, and half of the products take half of the time.

    Args:
        matrices: Shape `(batch…, m, n)`.

    Returns:
        Shape `(batch…, m, m)`.
    """
    rows = matrices.shape[-2]
    if rows <= 2 * BLOCK:
        return matrices @ matrices.mT
    lower = matrices.new_zeros(*matrices.shape[:-1], rows)
    for start in range(0, rows, BLOCK):
        end = start + BLOCK
        lower[..., start:end, :end] = matrices[..., start:end, :] @ matrices[..., :end, :].mT
    return lower


def eigh_of_gram(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, ascending, and eigenvectors of `matrices @ matrices.mT`, in fp64.

    Args:
        matrices: Shape `(batch…, m, n)`.

    Returns:
        Values `(batch…, m)`, at least 0, and vectors in columns `(batch…, m, m)`.
    """
    product, scale = _scaled(matrices)
    values, vectors = torch.linalg.eigh(product)
    return values.double().clamp_min(0.0) * scale, vectors.double()


def eigvalsh_of_gram(matrices: Tensor) -> Tensor:
    """Return the eigenvalues of `matrices @ matrices.mT` as `eigh_of_gram` does, alone."""
    product, scale = _scaled(matrices)
    values: Tensor = torch.linalg.eigvalsh(product)
    return values.double().clamp_min(0.0) * scale


def working(weight: Tensor) -> Tensor:
    """Return a weight in the dtype that it is decomposed in: fp64, or fp32 where it is `WIDE`."""
    is_wide = weight.numel() >= WIDE and weight.dtype != torch.float64
    return weight.detach().to(torch.float32 if is_wide else torch.float64)


def _scaled(matrices: Tensor) -> tuple[Tensor, float]:
    """Return the Gram matrix in the dtype that it is solved in, and the factor that it lacks."""
    rows = matrices.shape[-2]
    is_small, is_single = rows <= LARGEST_DOUBLE, matrices.dtype == torch.float32
    if is_small and not is_single and rows * matrices[..., 0, :].numel() * rows <= MOST_DOUBLE:
        return gram(matrices), 1.0
    largest = float(torch.linalg.vector_norm(matrices, torch.inf)) or 1.0
    scale = 1.0 if 1 / SAFE < largest < SAFE else largest
    scaled = (matrices if scale == 1.0 else matrices / scale).float()
    if not (is_small and is_single):
        return gram(scaled), scale**2
    parts = (gram(part).double() for part in torch.split(scaled, COLUMNS, -1))
    return reduce(torch.add, parts), scale**2
