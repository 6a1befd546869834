"""The outcome of a search: everything as pandas frames, and a plan for any budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import pandas as pd

from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.frames import Member, candidates_frame, front_frame, layers_frame
from search.front.layer_options import LayerOptions
from search.front.sweep import members
from sekron.allocation.allocate import Allocation, allocate
from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.decomposition.metric import Metric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.table import CandidateTable


@dataclass(frozen=True)
class SearchResult:
    """Candidates of every layer, and what can be made of them.

    Attributes:
        profile: Cost of the dense network.
        tables: Layer name -> candidates, for the searched layers.
        budget: What the search was asked for.
        timetable: What the clock said, or None if nothing was measured.
        metrics: Layer name -> metric that errors are measured in; empty for the plain norm.
        scores: What the user's score said of networks, or None if nothing was scored.
    """

    profile: NetworkProfile
    tables: dict[str, CandidateTable] = field(repr=False)
    budget: Budget
    timetable: Timetable | None = field(default=None, repr=False)
    metrics: dict[str, Metric] = field(default_factory=dict, repr=False)
    scores: Scores | None = field(default=None, repr=False)

    def layers(self) -> pd.DataFrame:
        """Return one row per convolution or linear layer, in the order of execution.

        Returns:
            Columns layer, kind, weight_shape, calls, flops, params (of the dense layer),
            flops_share, params_share (of the network), status (`searched` or `dense`), reason;
            with a calibration also sensitivity, which weighs the layer's error.
        """
        frame = layers_frame(self.profile)
        if self.metrics:
            known = {name: metric.sensitivity for name, metric in self.metrics.items()}
            frame["sensitivity"] = frame["layer"].map(known)
        return frame

    def candidates(self) -> pd.DataFrame:
        """Return every candidate of every searched layer, the dense layer first.

        Returns:
            Columns layer, structure (text form), family, sequence_length, error (relative
            Frobenius, in the metric where there is one), flops, params. With a timetable also
            latency_ms and speedup of the layer in its network, NaN where nothing like it was
            timed; a speedup up to 1 is refused unless the budget limits parameters.
        """
        frames = [
            candidates_frame(layer, self.tables[layer.name], self.options[layer.name])
            for layer in self.profile.searched
        ]
        return pd.concat(frames, ignore_index=True)

    def pareto_front(self) -> pd.DataFrame:
        """Return the plans that no other beats in error and costs together.

        Each is the proven optimum for one budget of a sweep over FLOPs, over parameters and,
        where it was measured, over latency, or for the budget of the search.

        Returns:
            Columns plan (a `Plan`), error (sum of the squared relative errors of the layers;
            with a calibration, of their fourth powers in the metric times the sensitivities),
            flops, flops_ratio, params, params_ratio (of the dense network), by FLOPs. With a
            timetable also predicted_ms; latency_ms and speedup, measured on the whole network
            in turn with the dense one; activations, peak memory relative to the dense network's:
            NaN where time was up before. With a score also score, NaN where there was no trial.
        """
        return front_frame(self.members, self.profile, self.timetable, self.scores)

    @cached_property
    def best(self) -> Plan:
        """The best plan within the budget of the search: by score, on the clock, or by error."""
        for record in (self.scores, self.timetable):
            held = None if record is None else record.winners.get(self.key)
            if held is not None:
                return Plan.from_json(held).within(self.metrics)
        return self.plan(self.budget)

    @property
    def key(self) -> str:
        """What decides the best plan, besides the network: the budget and what was searched."""
        return f"{self.budget}, {sum(map(len, self.tables.values()))} candidates"

    def plan(self, budget: Budget) -> Plan:
        """Return the plan with the least error within any budget; nothing is searched again.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
        """
        return self._plan_of(self.allocate(budget).choice)

    def allocate(self, budget: Budget) -> Allocation:
        """Solve the integer program: a candidate per layer, the dense layer being the last.

        A candidate that was measured slower than its dense layer is refused, unless parameters
        are limited; where FLOPs cannot be met otherwise it is admitted, with a warning.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
        """
        available = self.available(budget)
        found = self.solve(budget, available)
        if found is None and not budget.is_clocked:
            found = self.solve(budget, available, slower=True)
            if found is not None and self.timetable is not None:
                warnings.warn(
                    f"{budget} is out of reach without layers that were measured slower than the "
                    "dense ones; the plan has some.",
                    stacklevel=2,
                )
        if found is None:
            reachable = ", ".join(f"{name} {self.least(name):.4f}" for name in available)
            raise InfeasibleBudget(
                f"the budget must be reachable, got {budget}; the least of this search is "
                f"{reachable.replace('network_ms', 'latency')} of the dense network."
            )
        return found

    def weighed(self, weights: Mapping[str, float]) -> SearchResult:
        """Return a result in which layers count more or less, by these factors, in the error."""
        tables = {
            name: replace(table, sensitivity=table.sensitivity * weights[name])
            for name, table in self.tables.items()
        }
        return replace(self, tables=tables)

    def solve(
        self, budget: Budget, available: dict[str, float], slower: bool = False
    ) -> Allocation | None:
        """Choose among what a budget admits, within what the layers may use; None if none fits.

        Args:
            budget: Decides which candidates are admitted.
            available: Limits by names of `LayerOptions`: flops, params, ms or network_ms.
            slower: Whether to admit what was measured slower than its dense layer.
        """
        layers = list(self.options.values())
        allowed = [layer.allowed(budget, slower) for layer in layers]
        columns = [
            layer.columns(rows, list(available))
            for layer, rows in zip(layers, allowed, strict=True)
        ]
        found = allocate(columns, list(available.values()))
        if found is None:
            return None
        chosen = zip(allowed, found.choice, strict=True)
        return replace(found, choice=tuple(int(rows[choice]) for rows, choice in chosen))

    def excess(self, member: Member) -> float:
        """Return by how much a plan exceeds the search's FLOPs or parameters, as a share of them.

        Zero or less where it fits.
        """
        limits = {name: self.budget.limit(name, self.profile.dense(name)) for name in RESOURCES}
        return max(
            (member.used[name] / limit - 1.0 for name, limit in limits.items() if limit),
            default=0.0,
        )

    def available(self, budget: Budget) -> dict[str, float]:
        """Return what the searched layers may use of each limited resource."""
        if budget.min_score is not None:
            raise ValueError(
                f"a least score needs networks to be scored, got {budget}; run the search with "
                "this budget and `score`, then take `best`."
            )
        available: dict[str, float] = dict(self.profile.available(budget))
        if budget.is_clocked:
            if self.timetable is None:
                raise ValueError(
                    f"a budget of latency needs measurements, got {budget}, but this search has "
                    "none; run it again with `measure_seconds` above 0."
                )
            limit = budget.limit_ms(self.timetable.network_ms)
            assert limit is not None
            to_save = (self.timetable.network_ms - limit) / self.timetable.effect().realized
            available["network_ms"] = self.timetable.searched_ms - to_save
        return available

    def _plan_of(self, choices: tuple[int, ...]) -> Plan:
        structures, forms = {}, {}
        for (name, table), choice in zip(self.tables.items(), choices, strict=True):
            if choice < len(table):
                structures[name] = table.structure(choice)
                forms[name] = self.options[name].forms[choice]
        return Plan(structures, forms, self.metrics)

    @cached_property
    def options(self) -> dict[str, LayerOptions]:
        """Layer name -> its candidates as the allocation sees them."""
        overhead_ms = 0.0 if self.timetable is None else self.timetable.overhead_ms
        return {
            layer.name: LayerOptions.of(layer, self.tables[layer.name], self.timetable, overhead_ms)
            for layer in self.profile.searched
        }

    @cached_property
    def members(self) -> list[Member]:
        """The rows of the front."""
        return members(self)

    def least(self, resource: str) -> float:
        """Return the least share of the dense network's use of a resource."""
        least = sum(float(np.nanmin(getattr(o, resource))) for o in self.options.values())
        if resource != "network_ms":
            return (self.profile.fixed(resource) + least) / self.profile.dense(resource)
        table = self.timetable
        assert table is not None
        saved = (table.searched_ms - least) / table.network_ms
        return 1.0 - table.effect().realized * saved

    def choice(self, plan: Plan) -> tuple[int, ...]:
        """Return the row of each layer's table that a plan of this search takes.

        Raises:
            ValueError: If a structure is not, or no longer, among the candidates.
        """
        chosen = []
        for name, table in self.tables.items():
            row = len(table)
            if name in plan:
                structure = plan[name]
                index = table.points.index((structure.family, structure.shapes))
                of_point = np.flatnonzero(table.point == index).tolist()
                row = of_point[[table.ranks[r] for r in of_point].index(structure.ranks)]
            chosen.append(row)
        return tuple(chosen)

    def member(self, choice: tuple[int, ...]) -> Member:
        """Return the plan of a choice with what it uses."""
        chosen = list(zip(self.options.values(), choice, strict=True))
        used = {
            name: self.profile.fixed(name) + sum(int(getattr(o, name)[c]) for o, c in chosen)
            for name in RESOURCES
        }
        error = float(sum(o.losses[c] for o, c in chosen))
        saved = np.nan
        if self.timetable is not None:
            saved = sum(o.ms[-1] - o.ms[c] for o, c in chosen) / self.timetable.network_ms
        return Member(self._plan_of(choice), error, used, float(saved))
