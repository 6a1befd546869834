"""What the clock said of layers, candidates and networks, and what follows for the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from search.clock.race import EAGER, FEWEST, WARM_UP
from search.clock.run_queue import BUSY
from search.clock.steadiness import UNSTEADY
from search.clock.times import Effort, LayerTime, NetworkTime, Setting, TimedPoint, is_wide
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import FAMILIES, Point
from sekron.structures.flops import flops_of_calls

LEAST_REALIZED, MOST_REALIZED, UNLIKELY = 0.5, 2.0, 0.01
"""Networks that save a smaller share have an overhead, none saves a larger one; the weight of the
belief in no overhead."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Effect:
    """What becomes of the time that layers save alone, inside a network.

    Attributes:
        realized: Share of it that a network saves.
        overhead: What every replaced layer costs besides, as a share of the dense network's time.
    """

    realized: float
    overhead: float

    def ratio(self, saved: float, n_layers: int) -> float:
        """Return the time of a network over the dense one's."""
        return 1.0 - self.realized * saved + self.overhead * n_layers


@dataclass(frozen=True, slots=True)
class Estimate:
    """The candidates of a layer as the clock sees them, one row per row of its table.

    Attributes:
        ratios: Time over the dense layer's, NaN where nothing like it was timed, infinite where the
            runtime does not take it.
        lows: Lower ends of their 95 % confidence intervals, NaN for what was not timed itself.
        highs: Upper ends.
        decided: Ratios, in which one that is not sure has the fast end of its interval.
        flops: Multiply-adds in the form that it runs in.
        forms: That form.
    """

    ratios: Floats
    lows: Floats
    highs: Floats
    decided: Floats
    flops: NDArray[np.int64]
    forms: list[Form]


@dataclass(frozen=True, slots=True)
class Timetable:
    """All latencies of a search, in one setting; what is measured next makes another one.

    Attributes:
        setting: Where they were measured.
        network_ms: Of the dense network.
        layers: Layer name -> time of the dense layer.
        timed: Key of a layer -> the structures that were timed.
        networks: Digest of a plan -> time of its network.
        winners: Digest of a question -> the plan that was measured to hold its budget.
        efforts: Digest of a question -> what that plan was looked for with.
        waited: Share of the measured time for which threads waited for a processor that others had.
        spread: Of the dense network's times, over their median.
        network_low_ms: Lower end of the dense network's 95 % confidence interval, NaN where it is
            not known.
        network_high_ms: Upper end.
        ready_seconds: That the last network took to be made ready; 0 in torch itself, or where it
            is not known.
    """

    setting: Setting
    network_ms: float
    layers: Mapping[str, LayerTime]
    timed: Mapping[str, Mapping[Point, TimedPoint]] = field(default_factory=dict)
    networks: Mapping[str, NetworkTime] = field(default_factory=dict)
    winners: Mapping[str, Plan] = field(default_factory=dict)
    efforts: Mapping[str, Effort] = field(default_factory=dict)
    waited: float = 0.0
    spread: float = 0.0
    network_low_ms: float = math.nan
    network_high_ms: float = math.nan
    ready_seconds: float = 0.0

    @property
    def doubt(self) -> str:
        """Why the machine was too busy for these times, nothing where it was not."""
        if self.waited > BUSY:
            return (
                f"threads waited, all together, for {self.waited:.0%} of the time for a processor"
            )
        if self.spread > UNSTEADY:
            return f"the times of the dense network are spread over {self.spread:.0%} of it"
        return ""

    @property
    def race_seconds(self) -> float:
        """About how long the shortest race of a network with the dense one takes.

        That is if it is as fast as the dense one, and both are ready.
        """
        return 2 * (WARM_UP + FEWEST) * self.network_ms / 1e3

    @property
    def is_dense_sure(self) -> bool:
        """Whether the dense network's interval is tight enough for its time to decide anything."""
        return not is_wide(self.network_low_ms, self.network_ms, self.network_high_ms)

    def with_dense(self, other: Timetable) -> Timetable:
        """Return a timetable with the times of the dense network and its layers of another one.

        What was timed in turn with them stays; which plans hold a budget is to be found again.
        """
        return replace(
            self,
            network_ms=other.network_ms,
            network_low_ms=other.network_low_ms,
            network_high_ms=other.network_high_ms,
            layers=other.layers,
            winners={},
            efforts={},
        )

    @property
    def searched_ms(self) -> float:
        """Time of the dense layers that can be replaced."""
        return sum(layer.dense_ms for layer in self.layers.values())

    @property
    def fixed_ms(self) -> float:
        """Least that is left of the dense network's time if its searched layers take nothing.

        Where layers were timed alone, a network may save more than they take.
        """
        realized = 1.0 if self.setting.runtime == EAGER else MOST_REALIZED
        return max(self.network_ms - realized * self.searched_ms, 0.0)

    def effect(self) -> Effect:
        """Return what the networks measured so far say, by bounded least squares."""
        informative = [t for t in self.networks.values() if t.saved > 0 and t.runs and t.is_sure]
        if not informative:
            return Effect(1.0, 0.0)
        saved = np.array([time.saved for time in informative])
        n_layers = np.array([time.n_layers for time in informative])
        gains = np.array([1.0 - time.ratio for time in informative])
        # Where both would explain the same, the layers realized less and cost nothing.
        rows = np.vstack([np.stack([saved, -n_layers], axis=1), [0.0, UNLIKELY]])
        fitted = lsq_linear(
            rows,
            np.append(gains, 0.0),
            ([LEAST_REALIZED, 0.0], [MOST_REALIZED, np.inf]),
            method="bvls",  # exact, and fast where there are two unknowns
        )
        return Effect(float(fitted.x[0]), float(fitted.x[1]))

    @property
    def overhead_ms(self) -> float:
        """What a replaced layer costs its network besides, in milliseconds that layers save."""
        effect = self.effect()
        return effect.overhead / effect.realized * self.network_ms

    def of(self, plan: Plan) -> NetworkTime | None:
        """Return the time of a plan's network, None where it was not measured."""
        return self.networks.get(plan.digest)

    def point(self, name: str, point: Point) -> TimedPoint | None:
        """Return the times of a structure in a layer, None where it was not timed."""
        return self.timed.get(self.layers[name].key, {}).get(point)

    def with_point(self, key: str, point: Point, times: TimedPoint) -> Timetable:
        """Return a timetable that has the times of one more structure, or more of its times."""
        of_layer = {**self.timed.get(key, {}), point: times}
        return replace(self, timed={**self.timed, key: of_layer})

    def with_network(self, plan: Plan, time: NetworkTime) -> Timetable:
        """Return a timetable that has the time of one more network, or a new one of it."""
        return replace(self, networks={**self.networks, plan.digest: time})

    def without_network(self, plan: Plan) -> Timetable:
        """Return a timetable that does not know the network of a plan."""
        others = {digest: time for digest, time in self.networks.items() if digest != plan.digest}
        return replace(self, networks=others)

    @property
    def lasting(self) -> Timetable:
        """The same without what is refused for now alone: another search is to try it."""
        timed = {
            key: {point: t.lasting for point, t in points.items() if t.lasting.ratios}
            for key, points in self.timed.items()
        }
        networks = {digest: t for digest, t in self.networks.items() if not t.is_passing}
        return replace(self, timed=timed, networks=networks)

    @property
    def has_passing(self) -> bool:
        """Whether anything is refused for now alone."""
        points = (times for points in self.timed.values() for times in points.values())
        return any(t.passing for t in points) or any(t.is_passing for t in self.networks.values())

    def with_winner(self, question: str, plan: Plan, effort: Effort) -> Timetable:
        """Return a timetable that knows which plan holds a budget, and how it was looked for."""
        efforts = {**self.efforts, question: effort}
        return replace(self, winners={**self.winners, question: plan}, efforts=efforts)

    def is_settled(self, question: str, effort: Effort) -> bool:
        """Whether a winner is known that an effort would not better.

        Records of older releases do not tell how theirs were looked for.
        """
        known = self.efforts.get(question)
        return question in self.winners and (known is None or known.covers(effort))

    def estimate(self, layer: LayerProfile, table: CandidateTable) -> Estimate:
        """Return the times of a layer's candidates.

        One that was not timed itself lies, in FLOPs and so in time, between others of the same
        structure with other ranks.
        """
        ratios, lows, highs, decided = np.full((4, len(table)), np.nan)
        flops = table.flops.copy()
        forms = [DEFAULT_FORM] * len(table)
        for index, (family, shapes) in enumerate(table.points):
            times = self.point(layer.name, (family, shapes))
            rows = np.flatnonzero(table.point == index)
            if times is None or len(rows) == 0:
                continue
            timed = np.array(list(times.ratios), dtype=np.int64)
            ranks = np.array([table.ranks[row] for row in rows], dtype=np.int64)
            at, flops[rows] = (
                flops_of_calls(
                    shapes, FAMILIES[family](len(shapes)), r, layer.calls, times.form.order
                )
                for r in (timed, ranks)
            )
            known = np.array([(times.ratios[r], times.decided(r)) for r in times.ratios]).T
            runs = np.isfinite(known[0])
            for values, of_timed in zip((ratios, decided), known, strict=True):
                values[rows] = np.inf
                if times.runs:
                    values[rows] = _between(at[runs], of_timed[runs], flops[rows])
            for row in rows:
                forms[row], own = times.form, table.ranks[row]
                if own in times.ratios:
                    ratios[row], decided[row] = times.ratios[own], times.decided(own)
                    lows[row], highs[row] = times.ends.get(own, (np.nan, np.nan))
        return Estimate(ratios, lows, highs, decided, flops, forms)


def _between(flops: Any, ratios: Floats, wanted: NDArray[np.int64]) -> Floats:
    """Interpolate in FLOPs; beyond the most, time grows with them, below the least, it stays."""
    order = np.argsort(flops)
    x, y = np.asarray(flops, dtype=float)[order], ratios[order]
    return np.asarray(np.interp(wanted, x, y) * np.maximum(wanted / x[-1], 1.0))
