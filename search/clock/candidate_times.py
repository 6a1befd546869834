"""Which candidates of the layers are timed, at which ranks and in which forms."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np

from search.clock.stopwatch import Stopwatch
from search.clock.timetable import TimedPoint, Timetable
from sekron.layers.operations import Form
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import Point
from sekron.structures.flops import orders
from sekron.structures.structure import Structure

N_RANKS = 4
"""Ranks of a structure that are timed; the others lie between them."""

N_ORDERS = 3
"""Orders of the factors that are tried, at most."""

NEAR = 1.05
"""FLOPs over the cheapest order's up to which another order is tried."""


def time_fronts(
    stopwatch: Stopwatch,
    timetable: Timetable,
    tables: Mapping[str, CandidateTable],
    max_seconds: float,
    on_progress: Callable[[str], None],
) -> Iterator[Timetable]:
    """Time the structures on the layers' fronts of FLOPs, most promising first.

    Args:
        stopwatch: Of the network.
        timetable: What it has is not measured again.
        tables: Layer name -> candidates.
        max_seconds: After which no other structure is begun.
        on_progress: Called with what is being measured.

    Yields:
        The timetable after every structure.
    """
    wanted = _promising(stopwatch, timetable, tables)
    end = time.perf_counter() + max_seconds
    for done, (_, layer, structures) in enumerate(wanted):
        if time.perf_counter() > end:
            break
        on_progress(f"{layer.name}, structure {done + 1} of {len(wanted)}")
        timetable = _timed(stopwatch, timetable, layer, structures)
        yield timetable


def time_plan(stopwatch: Stopwatch, timetable: Timetable, plan: Plan) -> Timetable:
    """Time exactly the candidates of a plan that were not; return the same if there are none."""
    for layer in stopwatch.layers:
        if layer.name in plan:
            structure = plan[layer.name]
            times = timetable.point(layer.name, (structure.family, structure.shapes))
            if times is None or structure.ranks not in times.ratios:
                timetable = _timed(stopwatch, timetable, layer, [structure])
    return timetable


def forms(layer: LayerProfile, structure: Structure) -> list[Form]:
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
    return [Form(order, m) for order in near[:N_ORDERS] for m in (False, *([True] * pointwise))]


def _timed(
    stopwatch: Stopwatch, timetable: Timetable, layer: LayerProfile, structures: list[Structure]
) -> Timetable:
    """Time one structure at some ranks; at the middle ones first, to choose its form."""
    middle = structures[len(structures) // 2]
    point = middle.family, middle.shapes
    times = timetable.point(layer.name, point)
    if times is None:
        tried = forms(layer, middle)
        ratios = stopwatch.candidate_ratios(layer, [(middle, form) for form in tried])
        fastest = int(np.argmin(ratios))
        times = TimedPoint(tried[fastest], {middle.ranks: ratios[fastest]})
    others = [s for s in structures if s.ranks not in times.ratios]
    if others:
        ratios = stopwatch.candidate_ratios(layer, [(other, times.form) for other in others])
        more = {other.ranks: ratio for other, ratio in zip(others, ratios, strict=True)}
        times = replace(times, ratios={**times.ratios, **more})
    return timetable.with_point(timetable.layers[layer.name].key, point, times)


def _promising(
    stopwatch: Stopwatch, timetable: Timetable, tables: Mapping[str, CandidateTable]
) -> list[tuple[float, LayerProfile, list[Structure]]]:
    """Return structures to time with some of their ranks; layers of one key share them."""
    promise: dict[tuple[str, Point], float] = {}
    rows: dict[tuple[str, Point], list[tuple[int, Structure]]] = {}
    owner: dict[str, LayerProfile] = {}
    for layer in stopwatch.layers:
        table, time_of_layer = tables[layer.name], timetable.layers[layer.name]
        owner.setdefault(time_of_layer.key, layer)
        on_front = table.front(1.0)
        for index, area in table.exclusive_areas(1.0).items():
            place = time_of_layer.key, table.points[index]
            promise[place] = promise.get(place, 0.0) + area * time_of_layer.dense_ms
            of_point = on_front[table.point[on_front] == index]
            rows.setdefault(place, []).extend(
                (int(table.flops[row]), table.structure(int(row))) for row in of_point
            )
    wanted = []
    for (key, point), value in promise.items():
        if point not in timetable.timed.get(key, {}):
            by_flops = [s for _, s in sorted(rows[key, point], key=lambda pair: pair[0])]
            picked = np.unique(np.linspace(0, len(by_flops) - 1, N_RANKS).round().astype(int))
            wanted.append((value, owner[key], [by_flops[i] for i in picked]))
    return sorted(wanted, key=lambda entry: -entry[0])
