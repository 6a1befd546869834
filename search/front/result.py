"""The outcome of a search: everything as pandas frames, and a plan for any budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd

from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.choices import Choices, Member, Solution, slower_than_dense
from search.front.frames import candidates_frame, front_frame, layers_frame
from search.front.sweep import front_members
from sekron.budget import Budget
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.table import CandidateTable


@dataclass(frozen=True)
class SearchResult:
    """Candidates of every layer, the best plan, and what else can be made of them.

    Attributes:
        choices: The candidates and what the clock said of them.
        budget: What the search was asked for.
        best: The best plan within that budget: by score, on the clock, or by error.
        scores: What the user's score said of networks, or None if nothing was scored.
    """

    choices: Choices
    budget: Budget
    best: Plan
    scores: Scores | None = field(default=None, repr=False)

    @property
    def profile(self) -> NetworkProfile:
        """Cost of the dense network."""
        return self.choices.profile

    @property
    def tables(self) -> Mapping[str, CandidateTable]:
        """Layer name -> candidates, for the searched layers."""
        return self.choices.tables

    @property
    def timetable(self) -> Timetable | None:
        """What the clock said, or None if nothing was measured."""
        return self.choices.timetable

    @property
    def metrics(self) -> NetworkMetric:
        """Layer name -> metric that errors are measured in; empty for the plain norm."""
        return self.choices.metrics

    def layers(self) -> pd.DataFrame:
        """Return one row per convolution or linear layer, in the order of execution.

        Returns:
            Columns layer, kind, weight_shape, calls, flops, params (of the dense layer),
            flops_share, params_share (of the network), status (`searched` or `dense`), reason;
            with a calibration also sensitivity, by which the layer's error counts.
        """
        frame = layers_frame(self.profile, self.tables)
        if self.metrics:
            sensitivities = {name: metric.sensitivity for name, metric in self.metrics.items()}
            frame["sensitivity"] = frame["layer"].map(sensitivities)
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
            candidates_frame(layer, self.tables[layer.name], self.choices.layers[layer.name])
            for layer in self.profile.searched
        ]
        return pd.concat(frames, ignore_index=True)

    def pareto_front(self) -> pd.DataFrame:
        """Return the plans that no other beats in error and costs together.

        Each is the proven optimum for one budget of a sweep over FLOPs, over parameters and,
        where it was measured, over latency, or for the budget of the search.

        Returns:
            Columns plan (a `Plan`), error (Σ errorₗ² over the layers; with a calibration
            Σ sensitivityₗ · errorₗ⁴ in the metric), flops, flops_ratio, params, params_ratio (of
            the dense network), by FLOPs. With a timetable also predicted_ms; latency_ms and
            speedup, measured on the whole network in turn with the dense one; activations, peak
            memory relative to the dense network's: NaN where time was up before. With a score
            also score, NaN where there was no trial.
        """
        return front_frame(self.members, self.profile, self.timetable, self.scores)

    @cached_property
    def members(self) -> list[Member]:
        """The rows of the front."""
        return front_members(self.choices, self.best, self.scores)

    def plan(self, budget: Budget) -> Plan:
        """Return the plan with the least error within any budget; nothing is searched again.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
            ValueError: If the budget has a least score, or limits latency where nothing was
                measured.
        """
        solution = self.allocate(budget)
        if solution.is_slower:
            warnings.warn(slower_than_dense(budget), stacklevel=2)
        return self.choices.plan(solution.choice)

    def allocate(self, budget: Budget) -> Solution:
        """Return the best choice within a budget, and how far it can be from the best there is.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
            ValueError: As `plan` does.
        """
        if budget.min_score is not None:
            raise ValueError(
                f"a least score needs networks to be scored, got {budget}; run the search with "
                "this budget and `score`, then take `best`."
            )
        return self.choices.allocate(budget)
