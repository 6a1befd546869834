"""The candidates of the layers as columns of the allocation's program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.clock.times import LayerTime
from search.clock.timetable import Estimate, Timetable
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
        low_ms: Lower ends of their 95 % confidence intervals, NaN where not timed itself.
        high_ms: Upper ends.
        is_slower: Whether it surely takes longer than the dense layer.
        network_ms: The same with what a replaced layer costs its network besides.
        forms: How each one runs.
        runs: Whether the runtime takes it, as far as is known.
    """

    losses: Floats
    flops: NDArray[np.int64]
    params: NDArray[np.int64]
    ms: Floats
    low_ms: Floats
    high_ms: Floats
    is_slower: NDArray[np.bool_]
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
        unknown = np.full(len(table), np.nan)
        known = Estimate(*4 * (unknown,), table.flops, [DEFAULT_FORM] * len(table))
        dense = LayerTime("", np.nan)
        if timetable is not None:
            known, dense = timetable.estimate(layer, table), timetable.layers[layer.name]
        runs = np.append(~np.isinf(known.ratios), True)
        ms = dense.dense_ms * np.where(runs, np.append(known.ratios, 1.0), np.nan)
        return cls(
            table.losses(),
            np.append(known.flops, table.dense_flops),
            np.append(table.params, table.dense_params),
            ms,
            np.append(dense.dense_ms * known.lows, dense.low_ms),
            np.append(dense.dense_ms * known.highs, dense.high_ms),
            np.append(runs[:-1] & (known.decided >= 1.0), False),
            np.append(ms[:-1] + overhead_ms, ms[-1]),
            (*known.forms, DEFAULT_FORM),
            runs,
        )

    def allowed(self, budget: Budget, slower: bool = False) -> NDArray[np.intp]:
        """Return what a budget admits.

        Only what runs, and where latency is limited, only what was timed. What is surely slower
        than the dense layer saves nothing but parameters, and is admitted where these are limited,
        or on demand.
        """
        allowed = self.runs.copy()
        if budget.is_clocked:
            allowed &= ~np.isnan(self.ms)
        if budget.params is None and not slower:
            allowed &= ~self.is_slower
        return np.flatnonzero(allowed)

    def columns(self, rows: NDArray[np.intp], resources: list[str]) -> Options:
        """Return some rows as the program takes them."""
        costs = [getattr(self, resource)[rows] for resource in resources]
        return Options(
            self.losses[rows], np.array(costs, dtype=float).reshape(len(costs), len(rows)).T
        )
