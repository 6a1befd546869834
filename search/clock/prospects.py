"""Which structures of layers are worth a measurement: those that a plan may still gain from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.clock.candidate_times import Wanted, wanted_of
from search.clock.timetable import Timetable
from sekron.allocation.relaxation import Floats
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import Point

LEVELS = np.arange(1, 129) / 128
"""Relative errors of a layer at which its least time is looked at."""


@dataclass(frozen=True, slots=True)
class Prospects:
    """What layers of one kind, which share their measurements, may gain from more of them.

    Attributes:
        first: The most promising one of the structures that were not timed, None if all were.
        n_left: How many were not.
        ahead_ms: What all of them together may save of the network's time, on average over the
            errors that a plan may allow these layers.
    """

    first: Wanted | None
    n_left: int
    ahead_ms: float

    @classmethod
    def of(
        cls,
        layers: Sequence[LayerProfile],
        tables: Mapping[str, CandidateTable],
        timetable: Timetable,
    ) -> Prospects:
        """Judge the structures on the fronts of layers by what is known of their time.

        What was not timed is taken to run as well, for its FLOPs, as the best of what was timed in
        its layer, or as the dense layer before that.

        Args:
            layers: Of one key.
            tables: Layer name -> candidates.
            timetable: What was measured so far.
        """
        ahead_ms = 0.0
        gains: dict[Point, float] = {}
        rows: dict[Point, list[tuple[LayerProfile, int]]] = {}
        for layer in layers:
            table, dense_ms = tables[layer.name], timetable.layers[layer.name].dense_ms
            ratios, shares = timetable.estimate(layer, table).ratios, table.flops / layer.flops
            is_known = np.isfinite(ratios)
            slowness = float(np.min(ratios[is_known] / shares[is_known], initial=np.inf))
            slowness = slowness if np.isfinite(slowness) else 1.0
            now = least = _least(table.errors[is_known], ratios[is_known])
            on_front = table.front(1.0)
            for index in dict.fromkeys(table.point[on_front].tolist()):
                point = table.points[index]
                if timetable.point(layer.name, point) is not None:
                    continue
                own = on_front[table.point[on_front] == index]
                could = _least(table.errors[own], slowness * shares[own])
                gains[point] = gains.get(point, 0.0) + dense_ms * _mean_gain(now, could)
                rows.setdefault(point, []).extend((layer, int(row)) for row in own)
                least = np.minimum(least, could)
            ahead_ms += dense_ms * _mean_gain(now, least)
        if not gains:
            return cls(None, 0, 0.0)
        best = max(gains, key=lambda point: gains[point])
        return cls(wanted_of(rows[best], tables, gains[best]), len(gains), ahead_ms)


def _least(errors: Floats, ratios: Floats) -> Floats:
    """Return the least time at errors up to each level, over the dense layer's, at most 1."""
    order = np.argsort(errors)
    least = np.minimum.accumulate(np.append(1.0, ratios[order]))
    result: Floats = least[np.searchsorted(errors[order], LEVELS, side="right")]
    return result


def _mean_gain(now: Floats, could: Floats) -> float:
    return float(np.maximum(now - could, 0.0).mean())
