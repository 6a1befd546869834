"""Block least squares: improve one factor of a tensor network at a time, the others held."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from sekron.structures.families import Bonds

STANDSTILL = 1e-7
"""Sweeps stop when the squared relative error falls by less than this."""

CUTOFF = 1e-12
"""Directions of an environment weaker than this, relative to the strongest, are not fitted."""


def contract(factors: Sequence[Tensor], bonds: Bonds) -> Tensor:
    """Multiply factors `(ranks of its bonds…, n_k)` out to the tensor of digits `(n_1, …, n_S)`."""
    axes = _digit_axes(bonds)
    operands = [
        part
        for factor, labels, digit in zip(factors, bonds, axes, strict=True)
        for part in (factor, [*labels, digit])
    ]
    return torch.einsum(*operands, axes)


def refine_digits(
    digits: Tensor, factors: Sequence[Tensor], bonds: Bonds, sweeps: int
) -> list[Tensor]:
    """Return factors whose error is at most that of the given ones.

    A factor's digits are disjoint from all others', so its best value solves `A G = B`. `G` is the
    Gram matrix of its environment, the other factors, and only as large as the ranks that the
    factor carries; `B` is the tensor contracted with the environment. Of an environment in parts
    that share no bond, as around the core of a `tucker`, G is the Kronecker product of theirs.

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
    error = float((digits - contract(best, bonds)).square().sum())
    for _ in range(sweeps):
        trial, kept = list(best), 0.0
        for k in range(len(trial)):
            trial[k], kept = _solve(digits, trial, bonds, k)
        new_error = total - kept
        if not new_error < error:
            break
        gain, best, error = error - new_error, trial, new_error
        if gain <= STANDSTILL * total:
            break
    return best


def _solve(digits: Tensor, factors: Sequence[Tensor], bonds: Bonds, k: int) -> tuple[Tensor, float]:
    """Return the best value of a factor, and how much of the squared norm is kept with it."""
    axes = _digit_axes(bonds)
    environment = {
        i: (a, [*labels, d])
        for i, (a, labels, d) in enumerate(zip(factors, bonds, axes, strict=True))
        if i != k
    }
    row = list(bonds[k])
    right = _product([(digits, axes), *environment.values()], [*row, axes[k]])
    solution = right
    for part in _parts(bonds, k):
        own = [b for b in row if any(b in bonds[i] for i in part)]
        inverse = _inverse_gram([environment[i] for i in part], own)
        places = [row.index(b) for b in own]
        sizes = [right.shape[place] for place in places]
        n_own = len(own)
        inverse = inverse.reshape(*sizes, *sizes)
        solution = torch.tensordot(inverse, solution, dims=(list(range(n_own, 2 * n_own)), places))
        solution = solution.movedim(list(range(n_own)), places)
    return solution, float((solution * right).sum())


def _parts(bonds: Bonds, k: int) -> list[list[int]]:
    """Return the factors besides the k-th, those together that share a bond."""
    parts: list[list[int]] = []
    for i, labels in enumerate(bonds):
        if i != k:
            linked = [part for part in parts if any(set(labels) & set(bonds[j]) for j in part)]
            parts = [part for part in parts if part not in linked]
            parts.append([*(j for part in linked for j in part), i])
    return parts


def _inverse_gram(environment: Sequence[tuple[Tensor, list[int]]], row: list[int]) -> Tensor:
    """Return the inverse of the Gram matrix of some factors along open bonds, square."""
    most = 1 + max(axis for _, axes in environment for axis in axes)
    mirror = [(a, [*(most + b for b in axes[:-1]), axes[-1]]) for a, axes in environment]
    both = [operand for pair in zip(environment, mirror, strict=True) for operand in pair]
    gram = _product(both, [*row, *(most + b for b in row)])
    size = prod(gram.shape[: len(row)])
    values, vectors = torch.linalg.eigh(gram.reshape(size, size))
    inverse = torch.where(values > CUTOFF * values[-1], 1.0 / values, 0.0)
    symmetric: Tensor = (vectors * inverse) @ vectors.mT
    return symmetric


def _digit_axes(bonds: Bonds) -> list[int]:
    n_bonds = 1 + max((b for labels in bonds for b in labels), default=-1)
    return list(range(n_bonds, n_bonds + len(bonds)))


def _product(operands: Sequence[tuple[Tensor, Sequence[int]]], result: Sequence[int]) -> Tensor:
    """Multiply tensors with named axes, and sum over those that the result has not.

    From the first on, the cheapest next one first: to find the best order, as torch does, takes
    longer than the many small products themselves.
    """
    sizes = {
        axis: n for tensor, axes in operands for axis, n in zip(axes, tensor.shape, strict=True)
    }
    (tensor, axes), left = operands[0], list(operands[1:])
    while left:
        costs = [prod(sizes[axis] for axis in {*axes, *labels}) for _, labels in left]
        other, labels = left.pop(costs.index(min(costs)))
        wanted = {*result, *(axis for _, later in left for axis in later)}
        kept = [axis for axis in dict.fromkeys([*axes, *labels]) if axis in wanted]
        tensor, axes = torch.einsum(tensor, list(axes), other, list(labels), kept), kept
    return torch.einsum(tensor, list(axes), list(result))
