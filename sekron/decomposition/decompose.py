"""From a weight to factors and back, for every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from sekron.decomposition.cp import fit_cp
from sekron.decomposition.digits import from_digits, to_digits
from sekron.decomposition.gram import eigh_of_gram, working
from sekron.decomposition.least_squares import contract, refine_digits
from sekron.decomposition.metric import Metric
from sekron.decomposition.narrow import narrowed
from sekron.decomposition.own_precision import in_own_precision
from sekron.scalars import whole
from sekron.structures.families import whole_channels
from sekron.structures.structure import Structure

SWEEPS = 30
"""Most least-squares sweeps for a family of `REFINED`."""

MAX_TERM_NORM = 100.0
"""A CP is refused when its rank-one terms are, together, this much larger than the weight."""


class Decomposition(Protocol):
    """What gives the factors of a weight that `decompose` gives, which it may have kept."""

    def __call__(
        self, weight: Tensor, structure: Structure, *, metric: Metric | None = None
    ) -> tuple[Tensor, ...]:
        """Return the factors of a weight."""
        ...


def decompose(
    weight: Tensor, structure: Structure, *, metric: Metric | None = None, seed: int = 0
) -> tuple[Tensor, ...]:
    """Compute the factors of a weight.

    `sekron` and `chain` are truncated one factor at a time by SVD, which is optimal for two
    factors. `ring` and `tucker` start from leading singular vectors and are fitted by block least
    squares. `cp` is fitted by alternating least squares of its own, in fp32. All other arithmetic
    is fp64 but where a weight is large: eigenvalue problems of more than 2048 rows, or whose matrix
    takes more than 2³⁵ multiply-adds, are solved in fp32 whatever the weight's dtype, and `sekron`
    and `chain` of 2²⁴ numbers or more are computed in it unless they are fp64. The factors have the
    weight's dtype.

    Args:
        weight: Shape `structure.weight_shape`, any floating dtype.
        structure: The factorization.
        metric: Metric in which the error is made small; it does not count along a channel mode
            that the structure splits.
        seed: Seed of the random directions that `ring` and `cp` may start from.

    Returns:
        Factor `k` has shape `structure.factor_shapes[k]`: the ranks of its bonds, then its own
        shape.

    Raises:
        ValueError: If shape or type do not fit, the weight is not finite, or a CP degenerates.

    Example:
        >>> weight = torch.randn(6, 4, 3, 3)
        >>> [tuple(a.shape) for a in decompose(weight, Structure.parse("chain:6x1x3x1,1x4x1x3@5"))]
        [(5, 6, 1, 3, 1), (5, 1, 4, 1, 3)]

    Reference:
        Hameed et al., SeKron, arXiv 2210.06299, algorithm 1; Oseledets, Tensor-train
        decomposition, 2011, algorithm 1, for `chain`.
    """
    check_weight(weight, structure)
    if structure.groups > 1:
        metrics = [None] * structure.groups if metric is None else metric.by_group()
        parts = zip(weight.chunk(structure.groups), metrics, strict=True)
        by_group = [decompose(w, structure.one_group, metric=m, seed=seed) for w, m in parts]
        return tuple(torch.stack(factors) for factors in zip(*by_group, strict=True))
    exact = working(weight) if structure.family in EXACT else weight.detach().double()
    generator = torch.Generator().manual_seed(whole("seed", seed))
    with in_own_precision(weight):
        modes = whole_channels(structure.shapes)
        whitened = exact if metric is None else metric.whiten(exact, modes)
        digits = to_digits(whitened, structure.shapes)
        factors = _START[structure.family](digits, structure.ranks, generator)
    if structure.family in REFINED:
        factors = refine_digits(digits, factors, structure.bonds, SWEEPS)
    if structure.family == "cp":
        _refuse_degenerate(digits, factors, structure)
    if metric is not None:
        shapes = structure.factor_shapes
        shaped = [a.reshape(s) for a, s in zip(factors, shapes, strict=True)]
        factors = list(metric.undo(shaped, structure))
    return _shaped(factors, structure, weight)


def refine(
    weight: Tensor, factors: Sequence[Tensor], structure: Structure, sweeps: int = 10
) -> tuple[Tensor, ...]:
    """Fit the factors to the weight by block least squares; the error never rises.

    Args:
        weight: Shape `structure.weight_shape`.
        factors: As `decompose` returns them.
        structure: The factorization.
        sweeps: Most passes over the factors; it stops early once the error stands still.

    Returns:
        New factors of the same shapes.

    Raises:
        ValueError: If a shape or the type does not fit, or the weight is not finite.
    """
    check_weight(weight, structure)
    check_factors(factors, structure)
    if structure.groups > 1:
        parts = zip(weight.chunk(structure.groups), zip(*factors, strict=True), strict=True)
        by_group = [refine(w, group, structure.one_group, sweeps) for w, group in parts]
        return tuple(torch.stack(refined) for refined in zip(*by_group, strict=True))
    digits = to_digits(weight.detach().double(), structure.shapes)
    flat = [
        a.detach().double().reshape(*(structure.ranks[b] for b in bonds), -1)
        for a, bonds in zip(factors, structure.bonds, strict=True)
    ]
    refined = refine_digits(digits, flat, structure.bonds, whole("sweeps", sweeps))
    return _shaped(refined, structure, weight)


def reconstruct(factors: Sequence[Tensor], structure: Structure) -> Tensor:
    """Multiply the factors out to the dense weight, of shape `structure.weight_shape`.

    It has their dtype, also within autocast.

    Raises:
        ValueError: If they have other shapes than those of the structure.
    """
    check_factors(factors, structure)
    if structure.groups > 1:
        weights: Tensor = torch.vmap(lambda *a: reconstruct(a, structure.one_group))(*factors)
        return weights.flatten(0, 1)
    flat = [
        a.reshape(*(structure.ranks[b] for b in bonds), -1)
        for a, bonds in zip(factors, structure.bonds, strict=True)
    ]
    with in_own_precision(flat[0]):
        return from_digits(contract(flat, structure.bonds), structure.shapes)


def check_factors(factors: Sequence[Tensor], structure: Structure) -> None:
    """Raise a ValueError if there are more or fewer factors, or of other shapes."""
    shapes = tuple(tuple(factor.shape) for factor in factors)
    if shapes != structure.factor_shapes:
        raise ValueError(
            f"the factors of {structure} must have the shapes {structure.factor_shapes}, "
            f"got {shapes}."
        )


def check_weight(weight: Tensor, structure: Structure) -> None:
    """Raise a ValueError if shape or type do not fit, or the weight has no finite values."""
    if tuple(weight.shape) != structure.weight_shape:
        raise ValueError(
            f"the weight must have the shape {structure.weight_shape} of {structure}, "
            f"got {tuple(weight.shape)}."
        )
    if not weight.is_floating_point():
        raise ValueError(f"the weight must be of a floating type, got {weight.dtype}.")
    if weight.is_meta:
        raise ValueError(
            "the weight must have values, but is on the `meta` device; load the network's weights "
            "first."
        )
    if not torch.isfinite(weight).all():
        raise ValueError("the weight must be finite, got NaN or Inf in it.")


def leading(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the best approximation of that rank as `left @ right`, `left` orthonormal.

    Works on the Gram matrix of the smaller side, an order of magnitude faster than an SVD; the
    squared condition number costs nothing that a rank truncation could notice.

    Args:
        matrices: Shape `(batch, m, n)`.
        rank: At most `min(m, n)`.

    Returns:
        `left` of shape `(batch, m, rank)` and `right` of shape `(batch, rank, n)`, strongest
        direction first.
    """
    rows, columns = matrices.shape[-2:]
    if rows <= columns:
        vectors = eigh_of_gram(matrices)[1].to(matrices)
        left = vectors.flip(-1)[..., :rank]  # (batch, m, rank)
        return left, left.mT @ matrices
    vectors = eigh_of_gram(matrices.mT)[1].to(matrices)
    right = vectors.flip(-1)[..., :rank]  # (batch, n, rank)
    scaled = matrices @ right
    norms = torch.linalg.vector_norm(scaled, dim=-2, keepdim=True, dtype=torch.float64).to(scaled)
    return scaled / norms.clamp_min(torch.finfo(norms.dtype).tiny), norms.mT * right.mT


def _sekron(digits: Tensor, ranks: tuple[int, ...], _: torch.Generator) -> list[Tensor]:
    factors = []
    rest = digits.reshape(1, digits.shape[0], -1)
    for k, rank in enumerate(ranks):
        left, right = leading(rest, rank)  # (R_1…R_(k-1), n_k, R_k), (R_1…R_(k-1), R_k, rest)
        factors.append(left.mT.reshape(*ranks[: k + 1], digits.shape[k]))
        rest = right.reshape(prod(ranks[: k + 1]), digits.shape[k + 1], -1)
    return [*factors, rest.reshape(*ranks, digits.shape[-1])]


def _chain(digits: Tensor, ranks: tuple[int, ...], _: torch.Generator) -> list[Tensor]:
    factors = []
    rest, before = digits.reshape(1, -1), 1
    for k, rank in enumerate(ranks):
        left, right = leading(rest.reshape(1, before * digits.shape[k], -1), rank)
        factor = left.reshape(before, digits.shape[k], rank).mT  # (R_(k-1), R_k, n_k)
        factors.append(factor if k else factor[0])
        rest, before = right, rank
    return [*factors, rest.reshape(*ranks[-1:], digits.shape[-1])]


def _tucker(digits: Tensor, ranks: tuple[int, ...], _: torch.Generator) -> list[Tensor]:
    core, factors = digits, []
    for k, rank in enumerate(ranks):
        unfolding = digits.movedim(k, 0).reshape(1, digits.shape[k], -1)
        factors.append(_directions(unfolding, rank))
        core = torch.tensordot(core, factors[-1], dims=([0], [1]))  # the axis moves to the end
    return [*factors, core.movedim(0, -1)]


def _cp(digits: Tensor, ranks: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    if digits.dim() == 2:
        return _sekron(digits, ranks, generator)  # for two factors this is the same, and exact
    return fit_cp(digits, ranks[0], generator)


def _ring(digits: Tensor, ranks: tuple[int, ...], generator: torch.Generator) -> list[Tensor]:
    # Factor k carries ranks k-1 and k; its first axis is the smaller index (factor 0: 0 and S-1).
    factors = []
    for k, size in enumerate(digits.shape):
        first, second = sorted({(k - 1) % len(ranks), k})
        shape = ranks[first] * ranks[second], size
        noise = torch.randn(shape, generator=generator, device="cpu").double()
        unfolding = digits.movedim(k, 0).reshape(1, size, -1)
        vectors = _directions(unfolding, min(len(noise), *unfolding.shape[1:]))
        start = noise.to(vectors.device) / size**0.5
        start[: len(vectors)] += vectors
        factors.append(start.reshape(ranks[first], ranks[second], size))
    return factors


def _directions(unfolding: Tensor, rank: int) -> Tensor:
    """Return the leading left singular vectors of a `(1, m, n)` unfolding as rows, `(rank, m)`."""
    return leading(unfolding, min(rank, *unfolding.shape[1:]))[0][0].mT


def _refuse_degenerate(digits: Tensor, factors: Sequence[Tensor], structure: Structure) -> None:
    norms = torch.stack([a.norm(dim=-1) for a in factors]).prod(dim=0)
    if float(norms.norm()) > MAX_TERM_NORM * float(digits.norm()):
        raise ValueError(
            f"the terms of a CP must not cancel, but those of {structure} grew to "
            f"{float(norms.norm()) / float(digits.norm()):.0f} times the weight; "
            "lower the rank or take another family."
        )


def _shaped(factors: Sequence[Tensor], structure: Structure, weight: Tensor) -> tuple[Tensor, ...]:
    pairs = zip(narrowed(factors, weight.dtype), structure.factor_shapes, strict=True)
    return tuple(factor.reshape(shape).contiguous() for factor, shape in pairs)


EXACT = ("sekron", "chain")
"""Families whose error is known from the singular values alone."""

REFINED = ("ring", "tucker")
"""Families that start from singular vectors and are then fitted by block least squares."""

_START: dict[str, Callable[[Tensor, tuple[int, ...], torch.Generator], list[Tensor]]] = {
    "sekron": _sekron,
    "chain": _chain,
    "ring": _ring,
    "cp": _cp,
    "tucker": _tucker,
}
