"""The candidates of the layers as columns of the allocation's program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.clock.timetable import Timetable
from sekron.allocation.relaxation import Floats, Options
from sekron.budget import Budget
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable


@dataclass(frozen=True, slots=True)
class LayerOptions:
    """What can be chosen for a layer: the rows of its table, then the dense layer.

    Attributes:
        losses: What each adds to the error of a plan.
        flops: Multiply-adds in the form that runs.
        params: Numbers stored.
        ms: Milliseconds in the network, NaN where unknown or where it does not run.
        network_ms: The same with what a replaced layer costs its network besides.
        forms: How each one runs.
        runs: Whether the runtime takes it, as far as is known.
    """

    losses: Floats
    flops: NDArray[np.int64]
    params: NDArray[np.int64]
    ms: Floats
    network_ms: Floats
    forms: tuple[Form, ...]
    runs: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        layer: LayerProfile,
        table: CandidateTable,
        timetable: Timetable | None,
        overhead_ms: float = 0.0,
    ) -> LayerOptions:
        """Collect the candidates of a layer; without a timetable every time is unknown.

        Args:
            layer: Of the network.
            table: Its candidates.
            timetable: What the clock said.
            overhead_ms: What a replaced layer costs its network besides.
        """
        ratios, flops = np.full(len(table), np.nan), table.flops
        forms, dense_ms = [DEFAULT_FORM] * len(table), np.nan
        if timetable is not None:
            estimate = timetable.estimate(layer, table)
            ratios, flops, forms = estimate.ratios, estimate.flops, estimate.forms
            dense_ms = timetable.layers[layer.name].dense_ms
        runs = np.append(~np.isinf(ratios), True)
        ms = dense_ms * np.where(runs, np.append(ratios, 1.0), np.nan)
        return cls(
            table.losses(),
            np.append(flops, table.dense_flops),
            np.append(table.params, table.dense_params),
            ms,
            np.append(ms[:-1] + overhead_ms, ms[-1]),
            (*forms, DEFAULT_FORM),
            runs,
        )

    def allowed(self, budget: Budget, slower: bool = False) -> NDArray[np.intp]:
        """Return what a budget admits.

        Only what runs, and where latency is limited, only what was timed. What is slower than the
        dense layer saves nothing but parameters, and is admitted where these are limited, or on
        demand.
        """
        allowed = self.runs.copy()
        if budget.is_clocked:
            allowed &= ~np.isnan(self.ms)
        if budget.params is None and not slower:
            with np.errstate(invalid="ignore"):
                allowed[:-1] &= ~(self.ms[:-1] >= self.ms[-1])
        return np.flatnonzero(allowed)

    def columns(self, rows: NDArray[np.intp], resources: list[str]) -> Options:
        """Return some rows as the program takes them."""
        costs = [getattr(self, resource)[rows] for resource in resources]
        return Options(
            self.losses[rows], np.array(costs, dtype=float).reshape(len(costs), len(rows)).T
        )
