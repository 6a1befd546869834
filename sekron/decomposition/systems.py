"""Linear systems of several matrices, which torch is given one by one."""

from __future__ import annotations

import torch
from torch import Tensor


def solve_each(matrices: Tensor, right: Tensor) -> Tensor:
    """Return X such that `matrices @ X == right`.

    torch factors the matrices of a batch in several threads at once, in which MKL never ends, or
    gives wrong numbers, from about 150 rows on (pytorch/pytorch issues 141358 and 142815).

    Args:
        matrices: Shape `(batch…, n, n)`.
        right: Shape `(batch…, n, m)`, of the same batch.
    """
    each = matrices.reshape(-1, *matrices.shape[-2:]), right.reshape(-1, *right.shape[-2:])
    pairs = zip(*each, strict=True)
    return torch.stack([torch.linalg.solve(*pair) for pair in pairs]).reshape(right.shape)


def invert_each(matrices: Tensor) -> Tensor:
    """Return the inverses of matrices of shape `(batch…, n, n)`; see `solve_each`."""
    each = matrices.reshape(-1, *matrices.shape[-2:])
    return torch.stack([torch.linalg.inv(matrix) for matrix in each]).reshape(matrices.shape)
