"""The outcome of a search: everything as pandas frames, and a plan for any budget."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import pandas as pd

from search.clock.timetable import Timetable
from search.figures.front import front_figure
from search.figures.history import history_figure
from search.figures.layers import layers_figure
from search.folder.scores import Scores
from search.front.beside import choices_in, winner
from search.front.choices import Choices, Member, Solution, slower_than_dense
from search.front.frames import (
    CANDIDATES,
    FRONT,
    LAYERS,
    OF_A_PLAN,
    RUNTIMES,
    candidates_frame,
    front_frame,
    history_frame,
    layers_frame,
    planned_frame,
    runtimes_frame,
)
from search.front.limits import is_within, limits_of
from search.front.sweep import front_members
from sekron.budget import Budget, must_be_budget
from sekron.columns import returns_columns
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.table import CandidateTable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class SearchResult:
    """Candidates of every layer, the best plan, and what else can be made of them.

    Attributes:
        choices: The candidates and what the clock said of them.
        budget: What the search was asked for.
        best: The best plan within that budget: by score, on the clock, or by error.
        scores: What the user's score said of networks, or None if nothing was scored.
        beside: Runtime -> what its clock said, of those that were timed in the same run folder.
    """

    choices: Choices
    budget: Budget
    best: Plan
    scores: Scores | None = field(default=None, repr=False)
    beside: Mapping[str, Timetable] = field(default_factory=dict, repr=False)

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

    @returns_columns(*LAYERS, *OF_A_PLAN)
    def layers(self, plan: Plan | None = None) -> pd.DataFrame:
        """Return one row per convolution or linear layer, in the order of execution.

        Args:
            plan: Of this search; what it makes of the layers is told in further columns.

        Returns:
            The columns below: sensitivity with a calibration, those from structure on with a
            plan, ms and ms_after of them, in the network, with a timetable; NaN where a time is
            not known.

        Raises:
            ValueError: If the plan takes what is not among the candidates.
        """
        frame = layers_frame(self.profile, self.tables)
        if self.metrics:
            sensitivities = {name: metric.sensitivity for name, metric in self.metrics.items()}
            frame["sensitivity"] = frame["layer"].map(sensitivities)
        if plan is not None:
            frame = pd.concat([frame, planned_frame(self.choices, plan)], axis="columns")
        return frame

    @returns_columns(*CANDIDATES)
    def candidates(self) -> pd.DataFrame:
        """Return every candidate of every searched layer, the dense layer first.

        Returns:
            The columns below: latency_ms and what follows, of the layer in its network, with a
            timetable, NaN where nothing like it was timed, the interval where it was not itself;
            what is surely slower than dense is refused unless the budget limits parameters.
        """
        frames = [
            candidates_frame(layer, self.tables[layer.name], self.choices.layers[layer.name])
            for layer in self.profile.searched
        ]
        return pd.concat(frames, ignore_index=True)

    @returns_columns("plan", *FRONT)
    def pareto_front(
        self, budget: Budget | None = None, runtime: str | None = None
    ) -> pd.DataFrame:
        """Return the plans that no other beats in error and costs together.

        Each is the optimum for one budget of a sweep over FLOPs, over parameters and, where it was
        measured, over latency, or for the budget of the search, or was scored.

        Args:
            budget: Of the plans that are returned, under the numbers that they have in the whole
                front; what was not measured or scored is not within a limit of that.
            runtime: Whose times count; default that of the search.

        Returns:
            A row for each plan, by FLOPs, with the columns below: predicted_ms, latency_ms,
            speedup and activations, measured on the whole network in turn with the dense one,
            with a timetable, NaN where time was up before; score with a score, NaN where there
            was no trial.

        Raises:
            ValueError: If the budget, or the runtime, needs what was not measured or scored.
        """
        if runtime is not None:
            return self.in_runtime(runtime).pareto_front(budget)
        front = front_frame(self.members, self.profile, self.timetable, self.scores)
        if budget is None:
            return front
        return front[is_within(front, budget, self.choices, self.scores)]

    @cached_property
    def members(self) -> list[Member]:
        """The rows of the front."""
        return front_members(self.choices, self.best, self.scores)

    @returns_columns("layer", "structures", "found")
    def history(self) -> pd.DataFrame:
        """Return how early the candidates were found that are left in the end."""
        return history_frame(self.tables)

    def limits(self) -> dict[str, float]:
        """Return what the budget of the search limits: column of the front -> absolute limit."""
        return limits_of(self.budget, self.choices)

    def plot_front(
        self,
        x: str = "flops",
        y: str = "error",
        *,
        log_x: bool = False,
        log_y: bool = False,
        rivals: pd.DataFrame | None = None,
    ) -> Figure:
        """Return the front as a plotly figure: every point tells its plan on hover.

        Args:
            x: flops, params or latency_ms; plans that were not measured are hollow, at the time
                that is predicted for them.
            y: error or score.
            log_x: Whether `x` has a logarithmic axis.
            log_y: Whether `y` has one; an error of zero is not shown there.
            rivals: What `baselines.compare` returned, to be drawn over the front.

        Raises:
            ValueError: If an axis is none of these, or this search has no such numbers.
            ImportError: If plotly is not installed.
        """
        if rivals is not None and self.metrics:
            rivals = rivals.assign(error=rivals["error_in_metric"])
        return front_figure(
            self.pareto_front(),
            self.best_row,
            self.limits(),
            x,
            y,
            log_x=log_x,
            log_y=log_y,
            rivals=rivals,
        )

    def plot_layers(self, plan: Plan) -> Figure:
        """Return each layer's share of the FLOPs before and after, as a plotly figure.

        Raises:
            ValueError: If the plan takes what is not among the candidates.
            ImportError: If plotly is not installed.
        """
        return layers_figure(self.layers(plan))

    def plot_history(self) -> Figure:
        """Return `history` as a plotly figure, one line per layer.

        Raises:
            ImportError: If plotly is not installed.
        """
        return history_figure(self.history())

    @property
    def best_row(self) -> int | None:
        """Row of the front that is the best plan; None where another beats it in all."""
        return next((row for row, m in enumerate(self.members) if m.plan == self.best), None)

    def by_digest(self, digest: str) -> Plan:
        """Return the plan of the front whose digest begins so; a report tells it.

        Raises:
            ValueError: If there is none, or more than one.
        """
        plans = [member.plan for member in self.members if member.plan.digest.startswith(digest)]
        if len(plans) != 1:
            raise ValueError(
                f"{digest!r} must begin the digest of one plan of the front, but "
                f"{len(plans) or 'none'} of the {len(self.members)} have it; the search may have "
                "gone on, so make the report again."
            )
        return plans[0]

    @returns_columns(*RUNTIMES)
    def runtimes(self, plan: Plan | None = None) -> pd.DataFrame:
        """Return how fast a plan is in every runtime that was timed in the run folder.

        Args:
            plan: Of this search; default the best.

        Returns:
            A row for each, that of the search first, with the columns below: predicted_ms from
            layers in the forms that are fastest there, latency_ms and what follows measured in turn
            with the dense network, NaN where the plan was not.

        Raises:
            ValueError: If the plan takes what is not among the candidates.
        """
        own = [] if self.timetable is None else [self.timetable]
        plan = self.best if plan is None else plan
        return runtimes_frame(plan, self.choices, [*own, *self.beside.values()])

    def in_runtime(self, runtime: str) -> SearchResult:
        """Return the same on the clock of one of the runtimes, with its best plan, if it has one.

        Raises:
            ValueError: If the runtime was not timed.
        """
        choices, beside = choices_in(runtime, self.choices, self.beside)
        best = winner(choices, self.budget, self.scores)  # may be the dense network's, empty
        if best is None:  # then that of the search, in the forms that are fastest there
            best = choices.plan(choices.choice(self.best))
        return replace(self, choices=choices, best=best, beside=beside)

    def plan(self, budget: Budget, runtime: str | None = None) -> Plan:
        """Return the plan with the least error within any budget; nothing is searched again.

        Args:
            budget: Without a least score.
            runtime: Whose times count; default that of the search.

        Raises:
            InfeasibleBudget: If no choice of candidates fits.
            ValueError: If it has a least score, or if latency or `runtime` was not measured.
            TypeError: If it is no budget.
        """
        result = self if runtime is None else self.in_runtime(runtime)
        solution = result.allocate(budget)
        if solution.is_slower:
            warnings.warn(slower_than_dense(budget), stacklevel=2)
        return result.choices.plan(solution.choice)

    def allocate(self, budget: Budget) -> Solution:
        """Return the best choice within a budget, and how far it can be from the best there is.

        Raises:
            InfeasibleBudget, ValueError, TypeError: As `plan` does.
        """
        must_be_budget(budget)
        if budget.min_score is not None:
            raise ValueError(
                f"a least score needs networks to be scored, got {budget}; run the search with "
                "this budget and `score`, then take `best`."
            )
        return self.choices.allocate(budget)
