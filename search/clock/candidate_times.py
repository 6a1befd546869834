"""Which candidates of the layers are timed, at which ranks and in which forms."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from search.clock.race import FEWEST, WARM_UP
from search.clock.stopwatch import Stopwatch
from search.clock.times import TimedPoint
from search.clock.timetable import Timetable
from sekron.layers.operations import Form
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.flops import orders
from sekron.structures.structure import Structure

N_RANKS = 4
"""Ranks of a structure that are timed; the others lie between them."""

N_ORDERS = 3
"""Orders of the factors that are tried, at most."""

WITHOUT_PRODUCTS = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
"""Runtimes whose networks are slow where layers are matrix products, which are fast there alone.

Convolutions want the channels of an image in blocks; into and out of a product they are rearranged.
"""

NEAR = 1.05
"""FLOPs over the cheapest order's up to which another order is tried."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A structure to time.

    Attributes:
        layer: That it is of; those of the same key share it.
        structures: At some of its ranks, by FLOPs.
        promise: Milliseconds of the network that timing it may save.
    """

    layer: LayerProfile
    structures: list[Structure]
    promise: float = 0.0

    def least_seconds(self, stopwatch: Stopwatch, timetable: Timetable) -> float:
        """Return about how long the shortest races take, were all as fast as the dense layer."""
        tried = forms(self.layer, self._middle, stopwatch.sides.runtime)
        n_sides = len(tried) + len(self.structures) + 1
        dense_seconds = timetable.layers[self.layer.name].dense_ms / 1e3
        return n_sides * ((WARM_UP + FEWEST) * dense_seconds + stopwatch.sides.layer_seconds)

    def timed(
        self, stopwatch: Stopwatch, timetable: Timetable, left: Callable[[], float]
    ) -> Timetable:
        """Time the structure at these ranks; at the middle ones first, to choose its form.

        One that runs in no form there is not tried at others.

        Args:
            stopwatch: Of the network.
            timetable: Which of its ranks are known is not measured again.
            left: Returns the seconds that are left.
        """
        layer, middle = self.layer, self._middle
        point = middle.family, middle.shapes
        times = timetable.point(layer.name, point)
        if times is None:
            tried = forms(layer, middle, stopwatch.sides.runtime)
            sides = [(middle, form) for form in tried]
            ratios = stopwatch.candidate_ratios(layer, sides, left())
            # By the slow ends: of many forms, one that is not sure seems fast by luck.
            fastest = min(range(len(tried)), key=lambda form: ratios[form][2])
            times = TimedPoint(tried[fastest]).with_time(
                middle.ranks,
                ratios[fastest],
                is_passing=(layer.name, middle) in stopwatch.without_memory,
            )
        others = [s for s in self.structures if s.ranks not in times.ratios]
        if others and times.runs:
            sides = [(other, times.form) for other in others]
            ratios = stopwatch.candidate_ratios(layer, sides, left())
            for other, ratio in zip(others, ratios, strict=True):
                is_passing = (layer.name, other) in stopwatch.without_memory
                times = times.with_time(other.ranks, ratio, is_passing=is_passing)
        return timetable.with_point(timetable.layers[layer.name].key, point, times)

    @property
    def _middle(self) -> Structure:
        return self.structures[len(self.structures) // 2]


def untimed(stopwatch: Stopwatch, timetable: Timetable, plan: Plan) -> list[Wanted]:
    """Return the candidates of a plan that were not timed at exactly their ranks."""
    wanted = []
    for layer in stopwatch.layers:
        if layer.name in plan:
            structure = plan[layer.name]
            times = timetable.point(layer.name, (structure.family, structure.shapes))
            if times is None or structure.ranks not in times.ratios:
                wanted.append(Wanted(layer, [structure]))
    return wanted


def forms(layer: LayerProfile, structure: Structure, runtime: str) -> list[Form]:
    """Return the forms worth a try: near the fewest FLOPs, with matrix products where they fit."""
    call = layer.calls[0]
    cheapest = structure.cheapest_order(call.stride)
    limit = NEAR * structure.flops_in(cheapest, call)
    near = [
        None if order == cheapest else order
        for order in orders(structure.shapes, structure.bonds)
        if structure.flops_in(order, call) <= limit
    ]
    pointwise = len(layer.weight_shape) > 2 and any(
        prod(shape[2:]) == 1 for shape in structure.shapes
    )
    pointwise &= runtime not in WITHOUT_PRODUCTS
    return [Form(order, m) for order in near[:N_ORDERS] for m in (False, *([True] * pointwise))]


def wanted_of(
    rows: Sequence[tuple[LayerProfile, int]], tables: Mapping[str, CandidateTable], promise: float
) -> Wanted:
    """Return a structure at some of the ranks that it has in the tables of layers.

    Args:
        rows: Layer and row of its table, at least one; all of one structure.
        tables: Layer name -> candidates.
        promise: Milliseconds of the network that timing it may save.
    """
    pairs = [
        (int(tables[layer.name].flops[row]), tables[layer.name].structure(row))
        for layer, row in rows
    ]
    by_flops = [structure for _, structure in sorted(pairs, key=lambda pair: pair[0])]
    picked = np.unique(np.linspace(0, len(by_flops) - 1, N_RANKS).round().astype(int))
    return Wanted(rows[0][0], [by_flops[i] for i in picked], promise)
