"""One candidate per layer: what can be chosen, what a choice costs, and which is the best."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from search.clock.race import EAGER
from search.clock.timetable import Timetable
from search.front.layer_options import LayerOptions
from sekron.allocation.allocate import allocate
from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.decomposition.decompose import Decomposition, decompose
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.structure import Structure

NO_CLOCK = "no clock"
"""In the place of a runtime where nothing was measured."""

Choice = tuple[int, ...]
"""Per searched layer, the row of its candidate; one beyond the last is the dense layer."""


@dataclass(frozen=True, slots=True)
class Member:
    """One plan with what it costs.

    Attributes:
        plan: Which layer gets which structure.
        error: Sum of what the layers add, as in `SearchResult.pareto_front`.
        used: FLOPs and parameters of the whole network, by their names in a budget.
        saved: Share of the dense network's time that the layers, timed alone, save; NaN where a
            layer was not timed.
    """

    plan: Plan
    error: float
    used: dict[str, int]
    saved: float


@dataclass(frozen=True, slots=True)
class Solution:
    """The best choice within a budget.

    Attributes:
        choice: The row of every layer.
        loss: The error of the plan.
        gap: What is left between it and the best that there can be; 0 is proven optimal.
        is_slower: Whether it needs candidates that were measured slower than their dense layers.
    """

    choice: Choice
    loss: float
    gap: float
    is_slower: bool = False


@dataclass(frozen=True)
class Choices:
    """The candidates of all layers, as the allocation sees them. A value: nothing fills it.

    Attributes:
        profile: Cost of the dense network.
        tables: Layer name -> candidates, for the searched layers in their order.
        metrics: That errors are measured in.
        timetable: What the clock has said, or None if nothing was measured.
        decomposition: Gives the factors when a plan is applied.
    """

    profile: NetworkProfile
    tables: Mapping[str, CandidateTable] = field(repr=False)
    metrics: NetworkMetric = field(default_factory=NetworkMetric, repr=False)
    timetable: Timetable | None = field(default=None, repr=False)
    decomposition: Decomposition = field(default=decompose, repr=False)

    def retimed(self, timetable: Timetable | None) -> Choices:
        """Return the same candidates with the times of another timetable."""
        return replace(self, timetable=timetable)

    def weighted(self, weights: Mapping[str, float]) -> Choices:
        """Return choices in which layers count more or less in the error, by these factors."""
        tables = {
            name: replace(table, sensitivity=table.sensitivity * weights[name])
            for name, table in self.tables.items()
        }
        return replace(self, tables=tables)

    @cached_property
    def layers(self) -> dict[str, LayerOptions]:
        """Layer name -> its candidates as columns of the integer program."""
        overhead_ms = 0.0 if self.timetable is None else self.timetable.overhead_ms
        return {
            layer.name: LayerOptions.of(layer, self.tables[layer.name], self.timetable, overhead_ms)
            for layer in self.profile.searched
        }

    @cached_property
    def digest(self) -> str:
        """What tells these candidates from others, in whatever order they were found."""
        digest = hashlib.sha256(self.metrics.digest.encode())
        for name, table in self.tables.items():
            rows = sorted(
                (table.points[point], ranks, float(error).hex())
                for point, ranks, error in zip(table.point, table.ranks, table.errors, strict=True)
            )
            digest.update(f"{name} {float(table.sensitivity).hex()} {rows};".encode())
        return digest.hexdigest()

    def question(self, budget: Budget, clock: str = "") -> str:
        """Return the digest of what decides the best plan: these candidates, a budget, a clock.

        Args:
            budget: Of the plan.
            clock: Runtime; default that of the timetable, or `NO_CLOCK`.
        """
        own = NO_CLOCK if self.timetable is None else self.timetable.setting.runtime
        asked = "" if (clock or own) == EAGER else f" {clock or own}"
        return hashlib.sha256(f"{self.digest} {budget.digest}{asked}".encode()).hexdigest()

    def allocate(self, budget: Budget) -> Solution:
        """Solve the integer program: a candidate per layer, the dense layer being the last.

        A candidate that was measured slower than its dense layer is refused, unless parameters
        are limited; where FLOPs cannot be met otherwise it is admitted.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
            ValueError: If the budget limits latency and nothing was measured.
        """
        available = self.available(budget)
        solution = self.solve(budget, available)
        is_timed = self.timetable is not None  # else nothing was refused
        if solution is None and is_timed and budget.params is None and not budget.is_clocked:
            solution = self.solve(budget, available, slower=True)
            if solution is not None:
                solution = replace(solution, is_slower=True)
        if solution is None:
            reachable = ", ".join(f"{name} {self.least(name):.4f}" for name in available)
            raise InfeasibleBudget(
                f"the budget must be reachable, got {budget}; the least of this search is "
                f"{reachable.replace('network_ms', 'latency')} of the dense network."
            )
        return solution

    def best(self, budget: Budget) -> Plan:
        """Return the plan of the best choice within a budget.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
        """
        return self.plan(self.allocate(budget).choice)

    def solve(
        self, budget: Budget, available: dict[str, float], slower: bool = False
    ) -> Solution | None:
        """Choose among what a budget admits, within what the layers may use; None if none fits.

        Args:
            budget: Decides which candidates are admitted.
            available: Limits by names of `LayerOptions`: flops, params, ms or network_ms.
            slower: Whether to admit what was measured slower than its dense layer.
        """
        layers = list(self.layers.values())
        allowed = [layer.allowed(budget, slower) for layer in layers]
        columns = [
            layer.columns(rows, list(available))
            for layer, rows in zip(layers, allowed, strict=True)
        ]
        allocation = allocate(columns, list(available.values()))
        if allocation is None:
            return None
        pairs = zip(allowed, allocation.choice, strict=True)
        choice = tuple(int(rows[row]) for rows, row in pairs)
        return Solution(choice, allocation.loss, allocation.gap)

    def available(self, budget: Budget) -> dict[str, float]:
        """Return what the searched layers may use of each limited resource."""
        available: dict[str, float] = dict(self.profile.available(budget))
        if budget.is_clocked:
            timetable = self.measured_for(budget)
            limit = budget.limit_ms(timetable.network_ms)
            assert limit is not None
            to_save = (timetable.network_ms - limit) / timetable.effect().realized
            available["network_ms"] = timetable.searched_ms - to_save
        return available

    def measured_for(self, budget: Budget) -> Timetable:
        """Return the times that a budget of latency needs.

        Raises:
            ValueError: If nothing was measured.
        """
        if self.timetable is None:
            raise ValueError(
                f"a budget of latency needs measurements, got {budget}, but this search has "
                "none; run it again with `measure_seconds` above 0."
            )
        return self.timetable

    def excess(self, member: Member, budget: Budget) -> float:
        """Return by how much a plan exceeds a budget's FLOPs or parameters, as a share of them.

        Zero or less where it fits.
        """
        limits = {name: budget.limit(name, self.profile.dense(name)) for name in RESOURCES}
        return max(
            (member.used[name] / limit - 1.0 for name, limit in limits.items() if limit),
            default=0.0,
        )

    def least(self, resource: str) -> float:
        """Return the least share of the dense network's use of a resource."""
        least = sum(float(np.nanmin(getattr(o, resource))) for o in self.layers.values())
        if resource != "network_ms":
            return (self.profile.fixed(resource) + least) / self.profile.dense(resource)
        assert self.timetable is not None
        saved = (self.timetable.searched_ms - least) / self.timetable.network_ms
        return 1.0 - self.timetable.effect().realized * saved

    def choice(self, plan: Plan) -> Choice:
        """Return the row of each layer's table that a plan of this search takes.

        Raises:
            ValueError: If a layer was not searched, or a structure is not, or no longer, among the
                candidates.
        """
        if strangers := [name for name in plan if name not in self.tables]:
            raise ValueError(
                f"a plan of this search must take its layers, but it has {strangers[0]!r}, which "
                "was not searched."
            )
        return tuple(
            self._row(name, plan[name]) if name in plan else len(table)
            for name, table in self.tables.items()
        )

    def _row(self, name: str, structure: Structure) -> int:
        table, point = self.tables[name], (structure.family, structure.shapes)
        index = table.points.index(point) if point in table.points else -1
        for row in np.flatnonzero(table.point == index).tolist():
            if table.ranks[row] == structure.ranks:
                return int(row)
        raise ValueError(
            f"a plan of this search must take its candidates, but layer {name!r} has {structure}."
        )

    def plan(self, choice: Choice) -> Plan:
        """Return the plan of a choice, in the metric of the search."""
        structures, forms = {}, {}
        for (name, table), row in zip(self.tables.items(), choice, strict=True):
            if row < len(table):
                structures[name] = table.structure(row)
                forms[name] = self.layers[name].forms[row]
        return Plan(structures, forms, self.metrics, self.decomposition)

    def member(self, choice: Choice) -> Member:
        """Return the plan of a choice with what it uses."""
        chosen = list(zip(self.layers.values(), choice, strict=True))
        used = {
            name: self.profile.fixed(name) + sum(int(getattr(o, name)[row]) for o, row in chosen)
            for name in RESOURCES
        }
        error = float(sum(o.losses[row] for o, row in chosen))
        saved = np.nan
        if self.timetable is not None:
            saved = sum(o.ms[-1] - o.ms[row] for o, row in chosen) / self.timetable.network_ms
        return Member(self.plan(choice), error, used, float(saved))

    def as_it_is(self, plan: Plan) -> Member:
        """Return a plan of this search with what it uses, run in its own forms.

        In other forms than those that are fastest here, what its layers save is not known.

        Raises:
            ValueError: As `choice` does.
        """
        fastest = self.member(self.choice(plan))
        if plan == fastest.plan:
            return fastest
        return replace(fastest, plan=plan, used=self.profile.totals(plan), saved=np.nan)


def slower_than_dense(budget: Budget) -> str:
    """Return what is to be said of a plan with layers that were measured slower than dense."""
    return (
        f"{budget} is out of reach without layers that were measured slower than the dense ones; "
        "the plan has some."
    )
