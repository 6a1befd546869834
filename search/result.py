"""The outcome of a search: everything as pandas frames, and a plan for any budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from search.allocation import Allocation, allocate
from search.budget import RESOURCES, Budget, InfeasibleBudget
from search.feasibility import capacities
from search.profiling import NetworkProfile
from search.relaxation import Options
from search.table import CandidateTable
from sekron.plan import Plan
from sekron.structure import Structure

SWEEP = 24
"""Budgets per resource in the sweep that makes the front."""


@dataclass(frozen=True)
class SearchResult:
    """Candidates of every layer, and what can be made of them.

    Attributes:
        profile: Cost of the dense network.
        tables: Layer name -> candidates, for the searched layers.
        budget: What the search was asked for.
    """

    profile: NetworkProfile
    tables: dict[str, CandidateTable] = field(repr=False)
    budget: Budget

    def layers(self) -> pd.DataFrame:
        """Return one row per convolution or linear layer, in the order of execution.

        Returns:
            Columns layer, kind, weight_shape, calls, flops, params (of the dense layer),
            flops_share, params_share (of the network), status (`searched` or `dense`), reason.
        """
        return layers_frame(self.profile)

    def candidates(self) -> pd.DataFrame:
        """Return every candidate of every searched layer, the dense layer first.

        Returns:
            Columns layer, structure (text form), family, sequence_length, error (relative
            Frobenius), flops, params.
        """
        rows = [
            (name, str(structure), structure.family, structure.length, error, flops, params)
            for name, table in self.tables.items()
            for structure, error, flops, params in _rows(table, self._weight_shape(name))
        ]
        columns = ["layer", "structure", "family", "sequence_length", "error", "flops", "params"]
        return pd.DataFrame(rows, columns=columns)

    def pareto_front(self) -> pd.DataFrame:
        """Return the plans that no other beats in error, FLOPs and parameters together.

        Each is the proven optimum for one budget of a sweep over FLOPs and over parameters, or
        for the budget of the search.

        Returns:
            Columns plan (a `Plan`), error (sum of the squared relative errors of the layers),
            flops, flops_ratio, params, params_ratio (of the dense network), by FLOPs.
        """
        return self._front.copy()

    @cached_property
    def best(self) -> Plan:
        """The plan with the least error within the budget of the search."""
        return self.plan(self.budget)

    def plan(self, budget: Budget) -> Plan:
        """Return the plan with the least error within any budget; nothing is searched again.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
        """
        return self._plan_of(self.allocate(budget))

    def allocate(self, budget: Budget) -> Allocation:
        """Solve the integer program: a candidate per layer, the dense layer being the last.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
        """
        available = capacities(budget, self.profile)
        columns = [RESOURCES.index(name) for name in available]
        options = [Options(o.losses, o.costs[:, columns]) for o in self._options]
        allocation = allocate(options, list(available.values())) if options else None
        if allocation is None:
            reachable = ", ".join(
                f"{name} {self._least(name) / self.profile.dense(name):.4f}" for name in available
            )
            raise InfeasibleBudget(
                f"the budget must be reachable, got {budget}; the least of this search is "
                f"{reachable} of the dense network."
            )
        return allocation

    def totals(self, plan: Plan) -> dict[str, int]:
        """Return the FLOPs and parameters of the whole network under a plan of this search."""
        totals = {name: self.profile.dense(name) for name in RESOURCES}
        for layer in self.profile.searched:
            if layer.name in plan:
                structure = plan[layer.name]
                totals["params"] += structure.n_params - layer.params
                totals["flops"] += (
                    sum(
                        structure.flops(
                            call.output_size,
                            stride=call.stride,
                            dilation=call.dilation,
                            input_size=call.input_size,
                        )
                        for call in layer.calls
                    )
                    - layer.flops
                )
        return totals

    def _plan_of(self, allocation: Allocation) -> Plan:
        return Plan(
            {
                name: table.structure(choice)
                for (name, table), choice in zip(
                    self.tables.items(), allocation.choice, strict=True
                )
                if choice < len(table)
            }
        )

    def _weight_shape(self, name: str) -> tuple[int, ...]:
        return next(layer.weight_shape for layer in self.profile.layers if layer.name == name)

    @cached_property
    def _options(self) -> list[Options]:
        return [options(table) for table in self.tables.values()]

    @cached_property
    def _front(self) -> pd.DataFrame:
        found: dict[tuple[int, ...], tuple[object, ...]] = {}
        for budget in self._sweep():
            try:
                allocation = self.allocate(budget)
            except InfeasibleBudget:
                continue
            if allocation.choice not in found:
                found[allocation.choice] = self._row(allocation)
        columns = ["plan", "error", "flops", "flops_ratio", "params", "params_ratio"]
        frame = pd.DataFrame(list(found.values()), columns=columns)
        values = frame[["error", "flops", "params"]].to_numpy(dtype=float)
        beaten = [
            bool(((values <= row).all(axis=1) & (values < row).any(axis=1)).any()) for row in values
        ]
        kept = frame[~np.array(beaten, dtype=bool)]
        return kept.sort_values(["flops", "params"], ignore_index=True)

    def _sweep(self) -> list[Budget]:
        budgets = [self.budget]
        for resource in RESOURCES:
            least = max(self._least(resource), 1)
            limits = np.geomspace(least, self.profile.dense(resource), SWEEP)
            budgets += [Budget(**{resource: max(int(limit), least)}) for limit in limits]
        return budgets

    def _least(self, resource: str) -> int:
        column = RESOURCES.index(resource)
        searched = sum(int(o.costs[:, column].min()) for o in self._options)
        return self.profile.fixed(resource) + searched

    def _row(self, allocation: Allocation) -> tuple[object, ...]:
        chosen = [o.costs[c] for o, c in zip(self._options, allocation.choice, strict=True)]
        used = np.sum(chosen, axis=0) if chosen else np.zeros(len(RESOURCES))
        row: list[object] = [self._plan_of(allocation), allocation.loss]
        for resource, amount in zip(RESOURCES, used, strict=True):
            total = self.profile.fixed(resource) + int(amount)
            row += [total, total / self.profile.dense(resource)]
        return tuple(row)


def options(table: CandidateTable) -> Options:
    """Return the candidates of a layer for the allocation, the dense layer last."""
    costs = np.column_stack((table.flops, table.params)).astype(float)
    dense = np.array([[table.dense_flops, table.dense_params]], dtype=float)
    return Options(np.append(table.errors**2, 0.0), np.concatenate((costs, dense)))


def layers_frame(profile: NetworkProfile) -> pd.DataFrame:
    """Return `SearchResult.layers` of a profile, before any search."""
    rows = [
        (
            layer.name,
            layer.kind,
            layer.weight_shape,
            len(layer.calls),
            layer.flops,
            layer.params,
            layer.flops / profile.flops if profile.flops else 0.0,
            layer.params / profile.params,
            "dense" if layer.reason else "searched",
            layer.reason,
        )
        for layer in profile.layers
    ]
    columns = [
        "layer",
        "kind",
        "weight_shape",
        "calls",
        "flops",
        "params",
        "flops_share",
        "params_share",
        "status",
        "reason",
    ]
    return pd.DataFrame(rows, columns=columns)


def _rows(
    table: CandidateTable, weight_shape: tuple[int, ...]
) -> list[tuple[Structure, float, int, int]]:
    dense = (Structure.dense(weight_shape), 0.0, table.dense_flops, table.dense_params)
    return [
        dense,
        *(
            (
                table.structure(row),
                float(table.errors[row]),
                int(table.flops[row]),
                int(table.params[row]),
            )
            for row in range(len(table))
        ),
    ]
