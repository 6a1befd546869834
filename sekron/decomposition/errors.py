"""How far factorizations are from the weight, plainly or in a metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sekron.decomposition.decompose import (
    EXACT,
    Decomposition,
    check_weight,
    decompose,
    reconstruct,
)
from sekron.decomposition.metric import Metric
from sekron.structures.families import whole_channels
from sekron.structures.structure import Structure


def relative_error(weight: Tensor, structure: Structure, metric: Metric | None = None) -> float:
    """Return `‖W − Ŵ‖ / ‖W‖` for the factors that `decompose` gives, in the Frobenius norm.

    For `sekron` and `chain` nothing is rebuilt: all factors but the last are orthonormal, so the
    last one holds exactly the energy that is kept, `error² = 1 − ‖A_S‖² / ‖W‖²`. Of a weight in
    half precision it is the error of factors that are not rounded to that.

    Args:
        weight: Shape `structure.weight_shape`.
        structure: The factorization.
        metric: Metric in which both norms are taken.

    Raises:
        ValueError: If shape or type do not fit, the weight is not finite, or a CP degenerates.
    """
    return relative_errors(weight, [structure], metric)[0]


def relative_errors(
    weight: Tensor,
    structures: Sequence[Structure],
    metric: Metric | None = None,
    decomposition: Decomposition = decompose,
) -> list[float]:
    """Return the errors of structures that differ in nothing but their ranks.

    What they share is computed once.

    Args:
        weight: As in `relative_error`.
        structures: At least one.
        metric: Metric in which both norms are taken.
        decomposition: Gives the factors of what is fitted rank by rank.
    """
    check_weight(weight, structures[0])
    is_exact = structures[0].family in EXACT
    fittable = weight.detach()
    if weight.dtype not in (torch.float32, torch.float64):
        # Narrower factors would be rounded, which is not what tells structures apart; in fp64 they
        # are not those that a plan is applied with, so that it is no use to keep them.
        fittable, decomposition = fittable.double(), decompose
    if metric is None and is_exact:
        return [_exact_error(weight, structure) for structure in structures]
    if metric is None:
        return [fitted_error(weight, decomposition(fittable, s), s) for s in structures]
    modes = whole_channels(structures[0].shapes)
    whitened = metric.whiten(weight.detach(), modes)
    if is_exact and all(modes):
        return relative_errors(whitened, structures)
    if is_exact:
        decomposed = _decomposed(whitened, structures)
    else:
        fitted = ((s, decomposition(fittable, s, metric=metric)) for s in structures)
        decomposed = ((s, _magnified(metric, factors, s)) for s, factors in fitted)
    # Channels that are divided between factors can be magnified only in the error.
    splits = not modes[0], not modes[1]
    size = max(float(metric.whiten(whitened, splits).norm()), 1e-300)
    return [
        float(metric.whiten(whitened - reconstruct(factors, structure), splits).norm()) / size
        for structure, factors in decomposed
    ]


def fitted_error(
    weight: Tensor,
    factors: Sequence[Tensor],
    structure: Structure,
    metric: Metric | None = None,
) -> float:
    """Return `‖W − Ŵ‖ / ‖W‖` of any factors, by rebuilding in fp64; 0 for a weight of zeros.

    Args:
        weight: Shape `structure.weight_shape`.
        factors: As `decompose` returns them.
        structure: The factorization.
        metric: Metric in which both norms are taken.
    """
    exact = weight.detach().double()
    rest = exact - reconstruct([factor.detach().double() for factor in factors], structure)
    if metric is not None:
        exact, rest = metric.whiten(exact), metric.whiten(rest)
    return float(rest.norm()) / max(float(exact.norm()), 1e-300)


def _exact_error(weight: Tensor, structure: Structure) -> float:
    exact = weight.detach().double()
    factors = decompose(exact, structure)
    total = float(exact.square().sum())
    return math.sqrt(max(1.0 - float(factors[-1].square().sum()) / total, 0.0)) if total else 0.0


def _magnified(metric: Metric, factors: Sequence[Tensor], structure: Structure) -> Sequence[Tensor]:
    """Return factors of the whitened weight, in fp64, from those of the weight."""
    exact = [factor.double() for factor in factors]
    if structure.groups == 1:
        return metric.magnify(exact, structure)
    groups = zip(metric.by_group(), zip(*exact, strict=True), strict=True)
    parts = [own.magnify(group, structure.one_group) for own, group in groups]
    return [torch.stack(parts_of_one) for parts_of_one in zip(*parts, strict=True)]


def _decomposed(
    weight: Tensor, structures: Sequence[Structure]
) -> Iterator[tuple[Structure, Sequence[Tensor]]]:
    """Yield every structure of an exact family and its factors."""
    first = structures[0]
    if not (first.family == "sekron" or (first.family == "chain" and first.length == 2)):
        yield from ((structure, decompose(weight, structure)) for structure in structures)
        return
    # At lower ranks the factors are parts of those at the highest: no branch depends on another.
    ranks = map(max, zip(*(structure.ranks for structure in structures), strict=True))
    factors = decompose(weight, replace(first, ranks=tuple(ranks)))
    groups = (slice(None),) * int(first.groups > 1)
    for structure in structures:
        slices = (tuple(slice(structure.ranks[b]) for b in bonds) for bonds in structure.bonds)
        yield structure, [a[groups + part] for a, part in zip(factors, slices, strict=True)]
