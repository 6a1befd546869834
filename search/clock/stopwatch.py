"""Measures a network's layers, their candidates and whole plans, and fills the timetable."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from search.clock.cold_caches import displacing
from search.clock.layer_calls import record, watched
from search.clock.peak_memory import peak_activation_bytes
from search.clock.race import compare, processor_name, race, synchronized
from search.clock.timetable import LayerTime, NetworkTime, Setting, TimedPoint, Timetable
from sekron.layers.operations import Form
from sekron.network.plan import Plan
from sekron.network.surgery import blank_layer, rebuild
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.profile import Inputs
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import Point
from sekron.structures.flops import orders
from sekron.structures.structure import Structure

PRECISION = 0.03
"""Of every ratio; the additive estimate of a network is no better."""

MAX_SECONDS = 0.5
"""For one race between a dense layer and the forms or ranks of a structure."""

NETWORK_SECONDS = 4.0
"""For one whole network against the dense one."""

N_RANKS = 4
"""Ranks of a structure that are timed; the others lie between them."""

N_ORDERS = 3
"""Orders of the factors that are tried, at most."""

NEAR = 1.05
"""FLOPs over the cheapest order's up to which another order is tried."""


class Stopwatch:
    """Measures one network; everything runs on a copy.

    Args:
        model: The dense network.
        example_input: Where and as it shall run; the whole batch counts.
        profile: Of the network.
    """

    def __init__(self, model: nn.Module, example_input: Inputs, profile: NetworkProfile) -> None:
        self._network = copy.deepcopy(model).eval()
        self._arguments = example_input if isinstance(example_input, tuple) else (example_input,)
        self._layers = profile.searched
        self._calls = record(self._network, self._names(), self._forward)

    def start(self) -> Timetable:
        """Measure the dense network, and each searched layer inside it."""
        finish = synchronized(lambda: None, self._arguments)
        with watched(self._network, self._names(), finish) as seconds, torch.no_grad():
            times = race([synchronized(self._forward, self._arguments)], PRECISION)
        n_runs = times.shape[1]
        layers = {}
        for layer in self._layers:
            own = np.array(seconds[layer.name]).reshape(-1, len(self._calls[layer.name]))
            ms = 1e3 * float(np.median(own[-n_runs:].sum(axis=1)))
            layers[layer.name] = LayerTime(self._key(layer), ms)
        return Timetable(self.setting(), 1e3 * float(np.median(times)), layers)

    def setting(self) -> Setting:
        """Return what decides the latencies, as it is now."""
        tensors = [a for a in self._arguments if isinstance(a, Tensor)]
        if not tensors:
            raise ValueError(
                "the example input must hold a tensor to be timed, got "
                f"{[type(a).__name__ for a in self._arguments]}; or set `measure_seconds` to 0."
            )
        first = tensors[0]
        channels_last = first.dim() == 4 and not first.is_contiguous()
        return Setting(
            device=torch.cuda.get_device_name(first.device) if first.is_cuda else processor_name(),
            threads=torch.get_num_threads(),
            torch=torch.__version__,
            dtype=str(next(self._network.parameters()).dtype),
            layout="channels_last" if channels_last else "contiguous",
            input_shapes=tuple(tuple(a.shape) for a in tensors),
        )

    def time_layers(
        self,
        timetable: Timetable,
        tables: dict[str, CandidateTable],
        max_seconds: float,
        on_progress: Callable[[str], None],
    ) -> None:
        """Time the structures on the layers' fronts of FLOPs, most promising first.

        Args:
            timetable: Filled in place; what it has is not measured again.
            tables: Layer name -> candidates.
            max_seconds: After which no other structure is begun.
            on_progress: Called with what is being measured.
        """
        wanted = self._wanted(timetable, tables)
        end = time.perf_counter() + max_seconds
        for done, (_, layer, structures) in enumerate(wanted):
            if time.perf_counter() > end:
                break
            on_progress(f"{layer.name}, structure {done + 1} of {len(wanted)}")
            self._time(timetable, layer, structures)

    def time_plan(self, timetable: Timetable, plan: Plan) -> bool:
        """Time exactly the candidates of a plan that were not; return whether any was new."""
        new = False
        for layer in self._layers:
            if layer.name in plan:
                structure = plan[layer.name]
                known = timetable.point(layer.name, (structure.family, structure.shapes))
                if known is None or structure.ranks not in known.ratios:
                    self._time(timetable, layer, [structure])
                    new = True
        return new

    def time_network(
        self, timetable: Timetable, plan: Plan, saved: float, seconds: float = NETWORK_SECONDS
    ) -> None:
        """Time a whole compressed network in turn with the dense one; once per plan.

        Args:
            timetable: Filled in place.
            plan: Of the network.
            saved: Share of the dense network's time that its layers, timed alone, save.
            seconds: After which to stop, but not before the fewest rounds.
        """
        key = plan.to_json()
        if key in timetable.networks:
            return
        if not plan:
            timetable.networks[key] = NetworkTime(1.0, 0.0, 1.0, 0)
            return
        small = self._small(plan)
        ratio = self._ratio(small, min(seconds, NETWORK_SECONDS))
        activations = peak_activation_bytes(small, self._arguments) / self._dense_activations
        timetable.networks[key] = NetworkTime(ratio, saved, activations, len(plan))

    def confirm(self, timetable: Timetable, plan: Plan) -> None:
        """Time a compressed network once more and keep the slower time.

        Of many plans that are timed once, the one that seems to hold a limit is likely one that
        was lucky.
        """
        if plan:
            key = plan.to_json()
            again = self._ratio(self._small(plan), NETWORK_SECONDS)
            known = timetable.networks[key]
            timetable.networks[key] = replace(known, ratio=max(known.ratio, again))

    def _small(self, plan: Plan) -> nn.Module:
        """Return the network under a plan; what its factors are does not matter to the clock."""
        return rebuild(self._network, plan, {name: plan.form(name) for name in plan})

    def _ratio(self, small: nn.Module, seconds: float) -> float:
        """Return a network's time over the dense network's."""
        clock = compare(
            self._network,
            small,
            self._arguments,
            precision=PRECISION / 2,
            max_seconds=seconds,
        )
        return 1.0 / clock.ratio

    @cached_property
    def _dense_activations(self) -> int:
        return max(peak_activation_bytes(self._network, self._arguments), 1)

    @cached_property
    def _touched(self) -> int:
        """Bytes that a pass through the dense network touches."""
        weights = sum(p.numel() * p.element_size() for p in self._network.parameters())
        return weights + self._dense_activations

    def _forward(self) -> object:
        return self._network(*self._arguments)

    def _names(self) -> list[str]:
        return [layer.name for layer in self._layers]

    def _key(self, layer: LayerProfile) -> str:
        module = self._network.get_submodule(layer.name)
        shapes = ", ".join(f"{call.shape} {call.stride}" for call in self._calls[layer.name])
        return f"{module} on {shapes}"

    def _time(self, timetable: Timetable, layer: LayerProfile, structures: list[Structure]) -> None:
        """Time one structure at some ranks; at the middle ones first, to choose its form."""
        key, first = timetable.layers[layer.name].key, structures[len(structures) // 2]
        points = timetable.timed.setdefault(key, {})
        point = first.family, first.shapes
        if point not in points:
            forms = _forms(layer, first)
            ratios = self._race(layer, [(first, form) for form in forms])
            best = int(np.argmin(ratios))
            points[point] = TimedPoint(forms[best], {first.ranks: ratios[best]})
        known = points[point]
        others = [s for s in structures if s.ranks not in known.ratios]
        if others:
            ratios = self._race(layer, [(structure, known.form) for structure in others])
            known.ratios.update({s.ranks: r for s, r in zip(others, ratios, strict=True)})

    def _race(self, layer: LayerProfile, sides: list[tuple[Structure, Form]]) -> list[float]:
        """Return the times of candidates over the dense layer's."""
        dense = self._network.get_submodule(layer.name)
        modules = [dense, *(blank_layer(dense, structure, form) for structure, form in sides)]
        inputs = [call.make() for call in self._calls[layer.name]]

        def runner(module: nn.Module) -> Callable[[], object]:
            return synchronized(lambda: [module(x) for x in inputs], inputs)

        displace = displacing(inputs, self._touched)
        with torch.no_grad():
            times = race([runner(m) for m in modules], PRECISION, MAX_SECONDS, displace)
        return [float(ratio) for ratio in np.median(times[1:] / times[0], axis=1)]

    def _wanted(
        self, timetable: Timetable, tables: dict[str, CandidateTable]
    ) -> list[tuple[float, LayerProfile, list[Structure]]]:
        """Return structures to time with some of their ranks; layers of one key share them."""
        promise: dict[tuple[str, Point], float] = {}
        rows: dict[tuple[str, Point], list[tuple[int, Structure]]] = {}
        owner: dict[str, LayerProfile] = {}
        for layer in self._layers:
            table, timing = tables[layer.name], timetable.layers[layer.name]
            owner.setdefault(timing.key, layer)
            on_front = table.front(1.0)
            for index, area in table.exclusive_areas(1.0).items():
                known = timing.key, table.points[index]
                promise[known] = promise.get(known, 0.0) + area * timing.dense_ms
                of_point = on_front[table.point[on_front] == index]
                rows.setdefault(known, []).extend(
                    (int(table.flops[row]), table.structure(int(row))) for row in of_point
                )
        wanted = []
        for (key, point), value in promise.items():
            if point not in timetable.timed.get(key, {}):
                by_flops = [s for _, s in sorted(rows[key, point], key=lambda pair: pair[0])]
                picked = np.unique(np.linspace(0, len(by_flops) - 1, N_RANKS).round().astype(int))
                wanted.append((value, owner[key], [by_flops[i] for i in picked]))
        return sorted(wanted, key=lambda entry: -entry[0])


def _forms(layer: LayerProfile, structure: Structure) -> list[Form]:
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
