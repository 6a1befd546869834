"""Ranks of a Tucker-2 by variational Bayes: how many singular values are signal."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from sekron.budget import Budget
from sekron.network.plan import Plan
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.structures.structure import Structure
from sekron.structures.templates import tucker2

Floats = NDArray[np.float64]

TAU = 2.5129
"""`τ / √α` at which the trivial solution and the other one have the same free energy."""

BISECTIONS = 40
MOST = 8.0
"""How far the ranks are scaled up to use a budget that is larger than they need."""


def vbmf_rank(matrix: Tensor) -> int:
    """Return the rank of a matrix under noise of unknown variance, in closed form but for that.

    The free energy of variational Bayesian matrix factorization with priors from the data has a
    global minimum known per singular value; only the noise variance is searched.

    Args:
        matrix: Shape `(m, n)`.

    Returns:
        From 0, where all is noise, to at most `min(m, n)`.

    Reference:
        Nakajima, Sugiyama, Babacan, Tomioka, Global analytic solution of fully-observed
        variational Bayesian matrix factorization, JMLR 14, 2013.
    """
    rows, columns = sorted(matrix.shape)
    values = np.linalg.svd(matrix.detach().double().cpu().numpy(), compute_uv=False)
    if values.max() == 0.0:
        return 0
    squares: Floats = (values / values.max()) ** 2
    squares /= squares.mean()
    ratio = rows / columns
    tau = TAU * np.sqrt(ratio)
    edge = (1.0 + tau) * (1.0 + ratio / tau)  # least signal, squared, over the variance
    n_signal = int(np.ceil(rows / (1.0 + ratio))) - 1  # values that can be signal
    upper = 1.0  # the mean
    lower = max(float(squares[n_signal]) / edge, float(squares[n_signal:].mean()), 1e-12 * upper)
    variance = upper
    if lower < upper:
        result = minimize_scalar(
            lambda variance: _free_energy(squares / variance, ratio, edge),
            bounds=(lower, upper),
            method="bounded",
        )
        variance = float(result.x)
    return int((squares > edge * variance).sum())


def vbmf_plan(model: nn.Module, profile: NetworkProfile, budget: Budget) -> Plan | None:
    """Return the Tucker-2 plan with the ranks of variational Bayes, scaled together to a budget.

    Both ranks of a layer come from its unfoldings by the output and by the input channels. A
    layer that saves nothing at its ranks stays dense.

    Args:
        model: A trained network.
        profile: Costs of the network.
        budget: Budget of FLOPs and parameters.

    Returns:
        The plan with the largest ranks that fit; None if rank 1 does not.

    Reference:
        Kim et al., Compression of deep convolutional neural networks, arXiv 1511.06530.
    """
    ranks = {layer.name: _ranks(layer, model) for layer in profile.searched}
    available = profile.available(budget)
    fixed = {name: profile.fixed(name) for name in available}

    def scaled(scale: float) -> Plan | None:
        plan = Plan(
            {
                layer.name: structure
                for layer in profile.searched
                if (structure := _structure(layer, ranks[layer.name], scale)) is not None
            }
        )
        used = profile.totals(plan)
        fits = all(used[name] - fixed[name] <= limit for name, limit in available.items())
        return plan if fits else None

    best, low, high = scaled(0.0), 0.0, MOST
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        plan = scaled(middle)
        best, low, high = (best, low, middle) if plan is None else (plan, middle, high)
    return best


def _ranks(layer: LayerProfile, model: nn.Module) -> tuple[int, ...]:
    weight = weight_of(model, layer.name)
    ranks = vbmf_rank(weight.flatten(1)), vbmf_rank(weight.transpose(0, 1).flatten(1))
    return ranks if max(layer.weight_shape[2:], default=1) > 1 else ranks[:1]


def _structure(layer: LayerProfile, ranks: tuple[int, ...], scale: float) -> Structure | None:
    """Return a layer's structure at scaled ranks, or None where the dense layer is smaller."""
    if layer.groups > 1:  # the method does not know them
        return None
    family, shapes = tucker2(layer.weight_shape)
    factor_shapes = tuple(shape for shape in shapes if max(shape) > 1)
    sizes = layer.weight_shape[:2] if len(ranks) > 1 else (min(layer.weight_shape[:2]),)
    if len(factor_shapes) != len(ranks) + 1:
        return None
    scaled = [min(max(1, round(scale * r)), n) for r, n in zip(ranks, sizes, strict=True)]
    structure = Structure(family, factor_shapes, tuple(_clipped(scaled, layer.weight_shape)))
    saves = layer.flops_of(structure) < layer.flops or structure.n_params < layer.params
    return structure if saves else None


def _clipped(ranks: list[int], weight_shape: tuple[int, ...]) -> list[int]:
    """Limit each rank to what the other and the kernel allow."""
    if len(ranks) == 1:
        return ranks
    kernel = int(np.prod(weight_shape[2:]))
    first = min(ranks[0], ranks[1] * kernel)
    return [first, min(ranks[1], first * kernel)]


def _free_energy(x: Floats, ratio: float, edge: float) -> float:
    """Return the free energy at a noise variance that scales `x`, but for a constant."""
    signal, noise = x[x > edge], np.maximum(x[x <= edge], 1e-300)
    gap = signal - (1.0 + ratio)
    tau = 0.5 * (gap + np.sqrt(gap**2 - 4.0 * ratio))
    energy = np.sum(noise - np.log(noise)) + np.sum(signal - tau)
    energy += np.sum(np.log((tau + 1.0) / signal)) + ratio * np.sum(np.log(tau / ratio + 1.0))
    return float(energy)
