"""A weight by TensorLy's own decompositions, as structures and factors of ours."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import tensorly as tl
import torch
from tensorly.decomposition import parafac, partial_tucker
from tensorly.decomposition import tensor_ring as tl_tensor_ring
from tensorly.decomposition import tensor_train as tl_tensor_train
from torch import Tensor

from baselines.conversions import (
    Converted,
    from_cp,
    from_tensor_ring,
    from_tensor_train,
    from_tucker,
)
from sekron.decomposition.narrow import narrowed

MAX_TERM_NORM = 10.0
"""Norm of a rank-one term over the weight's, above which terms cancel: the CP fit diverges."""

REGULARIZATION = 1e-3
"""Weight of the factors' norms in the second try at a CP decomposition that diverged."""


def tensor_train(weight: Tensor, ranks: Sequence[int]) -> Converted:
    """Decompose a weight by TensorLy's TT-SVD.

    Args:
        weight: `(out, in, kernel…)`.
        ranks: One fewer than modes; clipped to what the modes allow.

    Returns:
        A `chain` and its factors.

    Raises:
        ValueError: If there are too few or too many ranks, or one is below 1.
    """
    _check_ranks(ranks, weight.dim() - 1)
    clipped, before = [], 1
    for mode, rank in enumerate(ranks):
        rows = before * weight.shape[mode]
        before = min(rank, rows, prod(weight.shape[mode + 1 :]))
        clipped.append(before)
    with _pytorch():
        cores = tl_tensor_train(_single(weight), rank=[1, *clipped, 1])
    return _cast(from_tensor_train(list(cores)), weight)


def tensor_ring(weight: Tensor, ranks: Sequence[int]) -> Converted:
    """Decompose a weight by TensorLy's TR-SVD.

    Args:
        weight: `(out, in, kernel…)`.
        ranks: One per mode, the rank after it; the last closes the ring. The first and the last
            together are clipped to what the first mode allows.

    Returns:
        A `ring` and its factors.

    Raises:
        ValueError: If there are too few or too many ranks, or one is below 1.
    """
    _check_ranks(ranks, weight.dim())
    first, *middle, last = ranks
    limit = min(weight.shape[0], weight.numel() // weight.shape[0])
    last = min(last, limit)
    first = min(first, limit // last)  # TensorLy splits one singular value decomposition by both
    with _pytorch():
        cores = tl_tensor_ring(_single(weight), rank=[last, first, *middle, last])
    return _cast(from_tensor_ring(list(cores)), weight)


def cp(
    weight: Tensor,
    rank: int,
    *,
    n_iter_max: int = 100,
    max_seconds: float = 60.0,
    seed: int = 0,
) -> Converted:
    """Decompose a weight by TensorLy's alternating least squares.

    A fit whose terms grow and cancel each other is tried once more with a penalty on their norms.

    Args:
        weight: `(out, in, kernel…)`.
        rank: Number of rank-one terms, at most what an exact decomposition needs.
        n_iter_max: Most sweeps.
        max_seconds: Time after which no other sweep begins.
        seed: Seed of what the singular vectors do not initialise.

    Returns:
        A `cp` and its factors.

    Raises:
        ValueError: If the rank is out of range, or the terms still cancel at the second try.
    """
    max_rank = weight.numel() // max(weight.shape)
    if not 1 <= rank <= max_rank:
        raise ValueError(
            f"the rank must be between 1 and {max_rank} for {tuple(weight.shape)}, got {rank}."
        )
    single, norm = _single(weight), float(weight.detach().float().norm())
    largest = float("inf")
    for penalty in (0.0, REGULARIZATION):
        end = time.perf_counter() + max_seconds
        try:
            with _pytorch(), _frugal():
                tensor = parafac(
                    single,
                    rank,
                    n_iter_max=n_iter_max,
                    init="svd",
                    l2_reg=penalty * norm**2 / weight.numel(),
                    random_state=seed,
                    callback=lambda *_, end=end: time.perf_counter() > end,
                )
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # not in its `__all__`
            continue  # the terms have become parallel
        converted = from_cp(tensor.weights, tensor.factors)
        terms = torch.stack([f.flatten(1).norm(dim=1) for f in converted[1]]).prod(dim=0)
        largest = float(terms.max()) / norm
        if largest <= MAX_TERM_NORM:
            return _cast(converted, weight)
    raise ValueError(
        f"the CP decomposition of rank {rank} must not diverge, but a term has {largest:.3g} "
        "times the norm of the weight; take a smaller rank."
    )


def tucker(
    weight: Tensor,
    ranks: Sequence[int],
    modes: Sequence[int] | None = None,
    *,
    n_iter_max: int = 100,
    seed: int = 0,
) -> Converted:
    """Decompose a weight by TensorLy's higher-order orthogonal iteration.

    Args:
        weight: `(out, in, kernel…)`.
        ranks: One per mode that gets a factor; clipped to the sizes of the modes.
        modes: The modes that get a factor: all by default, `(0, 1)` for Tucker-2.
        n_iter_max: Most sweeps.
        seed: Seed of what the singular vectors do not initialise.

    Returns:
        A `tucker` and its factors.

    Raises:
        ValueError: If there are too few or too many ranks, or one is below 1.
    """
    factor_modes = list(range(weight.dim()) if modes is None else modes)
    _check_ranks(ranks, len(factor_modes))
    sizes = [weight.shape[mode] for mode in factor_modes]
    clipped = [
        min(rank, size, weight.numel() // size) for rank, size in zip(ranks, sizes, strict=True)
    ]
    with _pytorch():
        (core, factors), _ = partial_tucker(
            _single(weight), clipped, modes=factor_modes, n_iter_max=n_iter_max, random_state=seed
        )
    return _cast(from_tucker(core, factors, factor_modes), weight)


@contextmanager
def _frugal() -> Iterator[None]:
    """Contract factor by factor, in this thread and for now only.

    TensorLy else forms the Khatri-Rao product of all factors but one, 14 GB for 512 channels.
    """
    with tl.tenalg.backend_context("einsum", local_threadsafe=True):
        yield


@contextmanager
def _pytorch() -> Iterator[None]:
    """Use TensorLy on torch, in this thread and for now only."""
    with (
        tl.backend_context("pytorch", local_threadsafe=True),
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        # A rank above the size of a mode is ordinary for CP; the rest is filled in at random.
        warnings.filterwarnings("ignore", message="Trying to compute SVD")
        yield


def _check_ranks(ranks: Sequence[int], number: int) -> None:
    if len(ranks) != number or min(ranks, default=1) < 1:
        raise ValueError(f"there must be {number} ranks of at least 1, got {tuple(ranks)}.")


def _single(weight: Tensor) -> Tensor:
    """Return a copy in at least single precision, in which singular values are computed."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32)).clone()


def _cast(converted: Converted, weight: Tensor) -> Converted:
    structure, factors = converted
    cast = narrowed([factor.to(weight.device) for factor in factors], weight.dtype)
    return structure, tuple(factor.contiguous() for factor in cast)
