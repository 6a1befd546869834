"""Block least squares: improve one factor of a tensor network at a time, the others held."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sekron.structures.families import Bonds

STANDSTILL = 1e-7
"""Sweeps stop when the squared relative error falls by less than this."""

CUTOFF = 1e-12
"""Directions of the environment weaker than this, relative to the strongest, are not fitted."""


def contract(factors: Sequence[Tensor], bonds: Bonds) -> Tensor:
    """Multiply factors `(ranks of its bonds…, n_k)` out to the tensor of digits `(n_1, …, n_S)`."""
    axes = _digit_axes(bonds)
    return _einsum(
        [(a, [*labels, d]) for a, labels, d in zip(factors, bonds, axes, strict=True)], axes
    )


def refine_digits(
    digits: Tensor, factors: Sequence[Tensor], bonds: Bonds, sweeps: int
) -> list[Tensor]:
    """Return factors whose error is at most that of the given ones.

    A factor's digits are disjoint from all others', so its best value solves `A G = B`. `G` is the
    Gram matrix of its environment, the other factors, and only as large as the ranks that the
    factor carries; `B` is the tensor contracted with the environment.

    Args:
        digits: Shape `(n_1, …, n_S)`, fp64.
        factors: Factor k of shape `(ranks of its bonds…, n_k)`.
        bonds: Bonds of each factor.
        sweeps: Most passes over all factors.

    Returns:
        Factors of the same shapes.
    """
    if len(factors) == 1:
        return [digits]
    total = float(digits.square().sum())
    best = list(factors)
    error = _squared_error(digits, best, bonds)
    for _ in range(sweeps):
        trial = list(best)
        for k in range(len(trial)):
            trial[k] = _solve(digits, trial, bonds, k)
        new_error = _squared_error(digits, trial, bonds)
        if not new_error < error:
            break
        gain, best, error = error - new_error, trial, new_error
        if gain <= STANDSTILL * total:
            break
    return best


def _solve(digits: Tensor, factors: Sequence[Tensor], bonds: Bonds, k: int) -> Tensor:
    axes = _digit_axes(bonds)
    n_bonds = axes[0]
    primed = [b + axes[-1] + 1 for b in range(n_bonds)]
    environment = [
        (a, [*labels, d])
        for i, (a, labels, d) in enumerate(zip(factors, bonds, axes, strict=True))
        if i != k
    ]
    mirror = [(a, [*(primed[b] for b in labels[:-1]), labels[-1]]) for a, labels in environment]
    row = list(bonds[k])
    size = factors[k][..., 0].numel()
    right = _einsum([(digits, axes), *environment], [*row, axes[k]]).reshape(size, -1)
    gram = _einsum([*environment, *mirror], [*row, *(primed[b] for b in row)]).reshape(size, size)
    values, vectors = torch.linalg.eigh(gram)
    inverse = torch.where(values > CUTOFF * values[-1], 1.0 / values, 0.0)
    solution: Tensor = vectors @ (inverse[:, None] * (vectors.mT @ right))
    return solution.reshape(factors[k].shape)


def _squared_error(digits: Tensor, factors: Sequence[Tensor], bonds: Bonds) -> float:
    return float((digits - contract(factors, bonds)).square().sum())


def _digit_axes(bonds: Bonds) -> list[int]:
    n_bonds = 1 + max((b for labels in bonds for b in labels), default=-1)
    return list(range(n_bonds, n_bonds + len(bonds)))


def _einsum(operands: Sequence[tuple[Tensor, Sequence[int]]], result: Sequence[int]) -> Tensor:
    arguments = [part for tensor, axes in operands for part in (tensor, list(axes))]
    return torch.einsum(*arguments, list(result))
