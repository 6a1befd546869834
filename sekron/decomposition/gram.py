"""Gram matrices, as far as eigenvalue solvers look at them."""

from __future__ import annotations

from torch import Tensor

BLOCK = 256
"""Rows that are computed at a time."""


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
