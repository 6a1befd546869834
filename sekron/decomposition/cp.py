"""The CP decomposition: alternating least squares, extrapolated and regularised."""

from __future__ import annotations

from functools import reduce
from math import prod

import torch
from torch import Tensor

from sekron.decomposition.gram import gram

RIDGE = 1e-3
"""Penalty on the factors, relative to the diagonal of the normal equations.

It keeps terms from growing and cancelling each other, and lets the fit come further in the same
number of sweeps."""

POLISH, POLISH_RIDGE = 3, 1e-6
"""Number of last sweeps, and their penalty, nearly none: a fit that can be exact becomes exact."""

SWEEPS = 100
FEWEST_SWEEPS = 15
WORK = 1e9
"""Multiply-adds of one fit, which set its number of sweeps between the fewest and the most."""

STEP, STEP_UP, STEP_DOWN = 0.5, 1.05, 1.5
"""First length of the extrapolation, its growth while the error falls, its cut when it rises."""

STANDSTILL = 1e-6
"""A fit ends when a sweep lowers the squared relative error by less than this."""


def fit_cp(digits: Tensor, rank: int, generator: torch.Generator) -> list[Tensor]:
    """Fit a sum of rank-one terms to a tensor: `T ≈ Σᵣ a₁ᵣ ∘ a₂ᵣ ∘ … ∘ a_Sᵣ`.

    Every sweep solves for one factor at a time, from the largest mode to the smallest: the first
    from the tensor, the second from the tensor contracted with the first, the others from that
    contracted with the second. The next sweep starts a little beyond where this one ended, unless
    that made things worse.

    Args:
        digits: Shape `(n_1, …, n_S)`, `S ≥ 2`.
        rank: Number of terms.
        generator: Draws the directions beyond the leading singular vectors of a mode.

    Returns:
        Factor k of shape `(rank, n_k)`, the terms' norms shared evenly.

    Reference:
        Kolda and Bader, Tensor decompositions and applications, 2009, section 3.4, for the
        sweeps; Ang et al., Accelerating the computation of nonnegative CP by extrapolation,
        2020, for the extrapolation and its restarts.
    """
    # The largest mode is first, for what the others work on is then smallest; the next is last, so
    # that what runs over the small ones runs along memory.
    largest, *others = sorted(range(digits.dim()), key=lambda mode: -digits.shape[mode])
    order = [largest, *others[1:], *others[:1]]
    norm = float(digits.double().norm())
    if norm == 0.0:
        return [digits.new_zeros(rank, size) for size in digits.shape]
    tensor = (digits.double() / norm).float().permute(order).contiguous()
    best = _descend(tensor, _start(tensor, rank, generator))
    scale = norm ** (1.0 / digits.dim())
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return [scale * best[place].to(digits) for place in inverse]


def fit_work(size: int, rank: int) -> float:
    """Return about how many multiply-adds a fit takes.

    Args:
        size: Number of entries of the tensor.
        rank: Number of terms.
    """
    return 2.0 * size * rank * _n_sweeps(size, rank)


def _n_sweeps(size: int, rank: int) -> int:
    return int(min(max(WORK / (2 * size * rank), FEWEST_SWEEPS), SWEEPS))


def _descend(tensor: Tensor, start: list[Tensor]) -> list[Tensor]:
    rank = len(start[0])
    n_sweeps = _n_sweeps(tensor.numel(), rank)
    best, error, step, max_step = start, float("inf"), STEP, 1.0
    guess = start
    for _ in range(n_sweeps):
        factors, new_error = _sweep(tensor, guess, RIDGE)
        if new_error > error:
            if guess is best:
                break  # the next sweep would repeat this one
            guess, max_step, step = best, step, step / STEP_DOWN
            continue
        gain, previous = error - new_error, best
        best, error = factors, new_error
        if gain < STANDSTILL:
            break
        step, max_step = min(step * STEP_UP, max_step), min(1.0, max_step * 1.01)
        guess = [b + step * (b - p) for b, p in zip(best, previous, strict=True)]
    for _ in range(POLISH):
        try:
            best, _ = _sweep(tensor, best, POLISH_RIDGE)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # not in its `__all__`
            break  # more terms than directions: they cannot be told apart any better
    return best


def _sweep(tensor: Tensor, factors: list[Tensor], ridge: float) -> tuple[list[Tensor], float]:
    """Solve for every factor of a tensor of norm 1; return them and their squared error."""
    rank, last = len(factors[0]), tensor.dim() - 1
    factors, ones, matrix = list(factors), tensor.new_ones(rank, 1), tensor.flatten(1)
    grams = [ones, *(a @ a.T for a in factors[1:])]  # the first is solved for from the others
    between = _products([ones, *factors[1:last]])  # (rank, n_2 ⋯ n_(S-1))

    def solve(k: int, right: Tensor) -> Tensor:
        """Solve for factor k from `(rank, n_k)`; return the tensor's product with all terms."""
        others = reduce(torch.mul, grams[:k] + grams[k + 1 :])
        factors[k] = _solve(others, right, ridge)
        grams[k] = factors[k] @ factors[k].T
        return (right * factors[k]).sum()

    solve(0, _products([between, factors[last]]) @ matrix.T)
    left = (factors[0] @ matrix).reshape(rank, -1, tensor.shape[last])
    product = solve(last, torch.bmm(between[:, None], left)[:, 0])
    core = torch.bmm(factors[last][:, None], left.mT).reshape(rank, *tensor.shape[1:last])
    for k in range(1, last):
        product = solve(k, _contract_others(core, factors[1:last], k - 1))
    error = reduce(torch.mul, grams).sum() - 2.0 * product
    squares = torch.stack([gram.diagonal() for gram in grams])
    return _balanced(factors, squares), 1.0 + float(error)


def _products(factors: list[Tensor]) -> Tensor:
    """Return the outer product of each term's vectors, flattened: `(rank, n_2 ⋯ n_S)`."""
    result = factors[0]
    for factor in factors[1:]:
        result = (result[:, :, None] * factor[:, None, :]).flatten(1)
    return result


def _contract_others(left: Tensor, factors: list[Tensor], k: int) -> Tensor:
    """Contract `(rank, n_2, n_3, …)` with all factors but number k, term by term."""
    result = left
    for mode in reversed(range(len(factors))):
        if mode != k:
            shape = [-1] + [1] * (result.dim() - 1)
            shape[mode + 1] = factors[mode].shape[1]
            result = (result * factors[mode].reshape(shape)).sum(dim=mode + 1)
    return result


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    # The penalty is relative to each term's size: relative to their mean, it would kill weak terms.
    sizes = gram.diagonal()
    penalty = ridge * sizes.clamp_min(1e-12 * float(sizes.max()))
    damped = gram.diagonal_scatter(sizes + penalty)
    return torch.cholesky_solve(right, torch.linalg.cholesky(damped))


def _balanced(factors: list[Tensor], squares: Tensor) -> list[Tensor]:
    """Share the norm of every term evenly among its vectors, of squared norms `(S, rank)`."""
    norms = squares.sqrt().clamp_min(1e-30)
    share = norms.log().mean(dim=0).exp()
    return [a * (share / norm)[:, None] for a, norm in zip(factors, norms, strict=True)]


def _start(tensor: Tensor, rank: int, generator: torch.Generator) -> list[Tensor]:
    """Return the leading singular vectors of every mode, and random ones beyond."""
    factors = []
    for mode, size in enumerate(tensor.shape):
        unfolding = tensor.movedim(mode, 0).flatten(1)
        vectors = torch.linalg.eigh(gram(unfolding)).eigenvectors.flip(-1).T
        drawn = torch.randn(rank, size, generator=generator, dtype=torch.float32, device="cpu")
        factor = drawn.to(tensor.device) / size**0.5
        factor[:size] = vectors[:rank]
        factors.append(factor)
    scale = 1.0 / (rank * prod(float(a.norm()) / rank**0.5 for a in factors))
    factors[0] = factors[0] * scale
    return _balanced(factors, torch.stack([a.square().sum(dim=1) for a in factors]))
