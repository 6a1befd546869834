"""The contenders of a comparison: each makes a compressed network for a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from torch import Tensor, nn

from baselines.activation_svd import Whitening
from baselines.allocations import ALLOCATIONS
from baselines.conversions import Converted
from baselines.pruning import pruned
from baselines.vbmf import vbmf_plan
from sekron.budget import Budget, InfeasibleBudget
from sekron.decomposition.errors import fitted_error
from sekron.decomposition.metric import Metric
from sekron.forward.inputs import Inputs
from sekron.layers.factorized import Factorized
from sekron.network.plan import Plan
from sekron.network.surgery import compressed, weight_of
from sekron.profiling.count import count_flops
from sekron.profiling.network_profile import NetworkProfile
from sekron.profiling.profile import first_image
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import whole_channels
from sekron.structures.structure import Structure

VBMF = "vbmf"
"""A rule for the ranks of a Tucker-2, beside the allocations."""

Factorize = Callable[[Tensor, Structure], Converted]
"""From a weight and a candidate to a structure and its factors."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One compressed network.

    Attributes:
        network: The network.
        error: Sum of the squared relative errors of its layers; NaN where that means nothing.
        used: FLOPs and parameters, by their names in a budget.
    """

    network: nn.Module
    error: float
    used: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Fit:
    """The factors of one layer, and their squared relative error."""

    structure: Structure
    factors: tuple[Tensor, ...]
    loss: float


def factorized_in(
    whitening: Metric | Whitening | None, factorize: Factorize, weight: Tensor, structure: Structure
) -> Converted:
    """Factorize a weight once it is whitened, and take the whitening out of the factors.

    Args:
        whitening: A metric, which does not count along a channel mode that the structure splits;
            None for the weight as it is.
        factorize: What knows of no whitening.
        weight: `(out, in, kernel…)`.
        structure: The candidate.
    """
    if whitening is None:
        return factorize(weight, structure)
    whitened = whitening.whiten(weight.detach(), whole_channels(structure.shapes))
    fitted, factors = factorize(whitened, structure)
    undone = whitening.undo(factors, fitted)
    return fitted, tuple(factor.to(weight).contiguous() for factor in undone)


class Contender(Protocol):
    """One way to compress a network."""

    def enter(self, budget: Budget, rule: str) -> Entry | None:
        """Compress the network within a budget, ranks by a rule; None where it is out of reach."""
        ...


@dataclass(slots=True)
class Decomposed:
    """Candidates of every layer, and how their factors are computed, each once.

    Attributes:
        model: The dense network.
        profile: Costs of the dense network.
        tables: Layer name -> candidates, for the searched layers in their order.
        factorize: From a weight and a candidate to a structure and its factors.
        whitenings: Layer name -> what a weight is whitened by before it is factorized.
    """

    model: nn.Module
    profile: NetworkProfile
    tables: Mapping[str, CandidateTable]
    factorize: Factorize
    whitenings: Mapping[str, Metric | Whitening] = field(default_factory=dict)
    _fits: dict[tuple[str, Structure], _Fit] = field(default_factory=dict, init=False, repr=False)

    def enter(self, budget: Budget, rule: str) -> Entry | None:
        """Compress the network within a budget, ranks by a rule; None where it is out of reach."""
        if rule == VBMF:
            plan = vbmf_plan(self.model, self.profile, budget)
        else:
            plan = self._allocated(budget, rule)
        if plan is None:
            return None
        fits = {name: self._fit(name, structure) for name, structure in plan.items()}
        structures = {name: fit.structure for name, fit in fits.items()}
        network = compressed(self.model, structures, factors_of=lambda name, *_: fits[name].factors)
        error = sum(fit.loss for fit in fits.values())
        return Entry(network, error, self.profile.totals(Plan(structures)))

    def _fit(self, name: str, structure: Structure) -> _Fit:
        """Compute factors once, however many budgets choose them."""
        if (name, structure) not in self._fits:
            weight = weight_of(self.model, name)
            whitening = self.whitenings.get(name)
            fitted, factors = factorized_in(whitening, self.factorize, weight, structure)
            loss = fitted_error(weight, factors, fitted) ** 2
            self._fits[name, structure] = _Fit(fitted, factors, loss)
        return self._fits[name, structure]

    def _allocated(self, budget: Budget, rule: str) -> Plan | None:
        available = self.profile.available(budget)
        layers = [
            self.tables[layer.name].options(list(available)) for layer in self.profile.searched
        ]
        choice = ALLOCATIONS[rule](layers, list(available.values()))
        if choice is None:
            return None
        pairs = zip(self.tables.items(), choice, strict=True)
        return Plan({name: t.structure(row) for (name, t), row in pairs if row < len(t)})


@dataclass(frozen=True, slots=True)
class Planned:
    """Plans that are made elsewhere, such as by a search.

    Attributes:
        model: The dense network.
        profile: Costs of the dense network.
        plan: From a budget to a plan.
    """

    model: nn.Module
    profile: NetworkProfile
    plan: Callable[[Budget], Plan]

    def enter(self, budget: Budget, rule: str) -> Entry | None:  # noqa: ARG002  it has one rule
        """Compress the network within a budget; None where it is out of reach."""
        try:
            plan = self.plan(budget)
        except InfeasibleBudget:
            return None
        network = plan.apply(self.model)
        error = 0.0
        for name in plan:
            layer = network.get_submodule(name)
            assert isinstance(layer, Factorized)
            error += (
                fitted_error(weight_of(self.model, name), layer.factors(), layer.structure) ** 2
            )
        return Entry(network, error, self.profile.totals(plan))


@dataclass(frozen=True, slots=True)
class Pruned:
    """Structured pruning of the dense network.

    Attributes:
        model: The dense network.
        example_input: What its forward takes.
        profile: Costs of the dense network.
    """

    model: nn.Module
    example_input: Inputs
    profile: NetworkProfile

    def enter(self, budget: Budget, rule: str) -> Entry | None:  # noqa: ARG002  it has one rule
        """Compress the network within a budget; None where it is out of reach."""
        try:
            network = pruned(self.model, self.example_input, self.profile, budget)
        except InfeasibleBudget:
            return None
        flops, _ = count_flops(network, first_image(self.example_input, network))
        params = sum(p.numel() for p in network.parameters())
        return Entry(network, np.nan, {"flops": flops, "params": params})
