"""Measures a network, its layers, their candidates and compressed networks, on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search.clock.cold_caches import displacing
from search.clock.layer_calls import autocast_of, record, watched
from search.clock.peak_memory import peak_activation_bytes
from search.clock.race import EAGER, interval, race, synchronized
from search.clock.run_queue import RunQueue
from search.clock.setting import setting_of
from search.clock.sides import NoMemory, Sides, is_out_of_memory
from search.clock.stand_in import stand_in
from search.clock.steadiness import Steadiness
from search.clock.times import Interval, LayerTime, Setting
from search.clock.timetable import Timetable
from sekron.export.refusal import CannotRun
from sekron.forward.evaluation import untouched
from sekron.forward.inputs import Inputs, example_of
from sekron.layers.operations import Form
from sekron.network.copying import copy_of
from sekron.network.opening import opened
from sekron.network.plan import Plan
from sekron.network.surgery import blank_layer
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.structures.structure import Structure

RATIO_PRECISION = 0.03
"""Of every ratio; the additive estimate of a network is no better."""

CANDIDATE_SECONDS = 0.5
"""For one race between a dense layer and the forms or ranks of a structure."""

MOMENT = 1e-3
"""For a race that is run although the time is up: it ends after the fewest rounds."""


class Stopwatch:
    """Measures one network; everything runs on a copy.

    Attributes:
        layers: That are searched.
        run_queue: What its races waited for.
        steadiness: Of the dense network's times in them.
        sides: What makes networks and layers ready.
        refused: What of the candidates the runtime does not take -> why.
        without_memory: Layers and structures of them for which memory was too full in some form.

    Args:
        model: The dense network.
        example_input: Where and as it shall run; the whole batch counts.
        profile: Of the network.
        runtime: That runs all that is measured.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Inputs,
        profile: NetworkProfile,
        runtime: str = EAGER,
    ) -> None:
        self._dense = copy_of(model).eval()
        self._network = opened(self._dense, [layer.name for layer in profile.searched])
        self._arguments = example_of(example_input, model)
        self.sides = Sides(runtime, self._arguments)
        self.layers = profile.searched
        self.run_queue, self.steadiness = RunQueue(), Steadiness()
        self.refused: dict[str, str] = {}
        self.without_memory: set[tuple[str, Structure]] = set()
        self._calls = record(self._network, self._names(), self._runner(self._network))

    def setting(self) -> Setting:
        """Return what decides the latencies, as it is now.

        Raises:
            ValueError: If the example input holds no tensor.
        """
        return setting_of(self._network, self._arguments, self.sides.runtime)

    def key(self, layer: LayerProfile) -> str:
        """Return what layers share that take equally long: the module and its inputs."""
        module = self._network.get_submodule(layer.name)
        return f"{module} on {', '.join(map(str, self._calls[layer.name]))}"

    def start(self, seconds: float) -> Timetable:
        """Measure the dense network, and each searched layer inside it.

        A runtime that shows nothing of its inside has the layers measured alone.

        Args:
            seconds: After which to stop, but not before the fewest rounds.

        Raises:
            CannotRun: If the runtime does not take the network, or one of the layers alone.
        """
        if not self.sides.is_eager:
            return self._start_alone(seconds)
        finish = synchronized(lambda: None, self._arguments, self._dense)
        # The hooks on its layers take time: the network that is timed as a whole has none.
        inside = copy_of(self._dense) if self._network is self._dense else self._network
        networks = [self._dense, inside]
        sides = [synchronized(self._runner(n), self._arguments, n) for n in networks]
        limit, attended = max(seconds, MOMENT), self.run_queue.attended
        with watched(inside, self._names(), finish) as of_layer, torch.no_grad():
            times = race(sides, RATIO_PRECISION, limit, attended=attended)
        n_runs = times.shape[1]
        layers = {}
        for layer in self.layers:
            of_calls = np.array(of_layer[layer.name]).reshape(-1, len(self._calls[layer.name]))
            low, ms, high = interval(1e3 * of_calls[-n_runs:].sum(axis=1))
            layers[layer.name] = LayerTime(self.key(layer), ms, low, high)
        return self._timetable(times[0], layers)

    def _timetable(self, dense: NDArray[np.float64], layers: dict[str, LayerTime]) -> Timetable:
        """Return a timetable of the dense network, whose rounds these seconds are."""
        self.steadiness.add(dense)
        low, ms, high = interval(1e3 * dense)
        return Timetable(self.setting(), ms, layers, network_low_ms=low, network_high_ms=high)

    def _start_alone(self, seconds: float) -> Timetable:
        network = self.sides.network(self._dense)
        limit, attended = max(seconds / 2, MOMENT), self.run_queue.attended
        times = race([network], RATIO_PRECISION, limit, attended=attended)
        network_ms = 1e3 * float(np.median(times))
        keys = {layer.name: self.key(layer) for layer in self.layers}
        first = {keys[layer.name]: layer for layer in reversed(self.layers)}
        each = seconds / 2 / len(first)
        ms = {
            key: interval(1e3 * self._raced_alone(layer, [], each)[0])
            for key, layer in first.items()
        }
        # Alone they may take longer than all of the network, in which much is fused.
        shrunk = min(network_ms / sum(ms[key][1] for key in keys.values()), 1.0)
        layers = {}
        for name, key in keys.items():
            low, middle, high = (shrunk * end for end in ms[key])
            layers[name] = LayerTime(key, middle, low, high)
        return self._timetable(times[0], layers)

    def candidate_ratios(
        self, layer: LayerProfile, sides: Sequence[tuple[Structure, Form]], seconds: float
    ) -> list[Interval]:
        """Time candidates of a layer in turn with the dense one.

        Args:
            layer: Of the network.
            sides: Structures, and how each one runs.
            seconds: After which to stop, but not before the fewest rounds.

        Returns:
            The time of each over that of the dense layer, between the ends of the 95 % confidence
            interval; all are infinite where the runtime does not take it, or memory is too full.
        """
        times = self._raced_alone(layer, sides, seconds)
        ratios = []
        for ratio in times[1:] / times[0]:
            low, middle, high = interval(ratio) if np.isfinite(ratio).all() else 3 * (math.inf,)
            ratios.append((low, middle, high))
        return ratios

    def _raced_alone(
        self, layer: LayerProfile, sides: Sequence[tuple[Structure, Form]], seconds: float
    ) -> NDArray[np.float64]:
        """Return the seconds of a dense layer and of its candidates, shape `(1 + sides, rounds)`.

        They are infinite where the runtime does not take a candidate.
        """
        dense = self._network.get_submodule(layer.name)
        candidates = [blank_layer(dense, structure, form) for structure, form in sides]
        calls = self._calls[layer.name]
        if self.sides.has_own_threads:  # which is not torch, to which autocast belongs
            calls = [call.without_autocast(next(dense.parameters()).dtype) for call in calls]
        inputs = [call.make() for call in calls]
        displace = displacing(inputs, self._touched, self.sides.has_own_threads)

        def before() -> None:
            torch.clear_autocast_cache()  # a network casts its weights in each pass
            displace()

        limit = max(min(seconds, CANDIDATE_SECONDS), MOMENT)
        attended = self.run_queue.attended
        with torch.no_grad(), autocast_of(calls):
            try:
                made = self.sides.layers(self.key(layer), dense, candidates, inputs)
            except CannotRun as error:
                raise CannotRun(
                    f"{error} That is the dense layer {layer.name!r} alone; name it in `exclude`."
                ) from error
            runs = [side for side in made if not isinstance(side, CannotRun)]
            raced = self.sides.own(race(runs, RATIO_PRECISION, limit, before, attended))
        times, left = np.full((1 + len(sides), raced.shape[1]), np.inf), iter(raced)
        for place, side in enumerate(made[: len(times)]):
            if isinstance(side, CannotRun):
                structure = sides[place - 1][0]
                self.refused[f"{structure} in layer {layer.name!r}"] = str(side)
                if isinstance(side, NoMemory):
                    self.without_memory.add((layer.name, structure))
            else:
                times[place] = next(left)
        return times

    def compressed(self, plan: Plan) -> nn.Module:
        """Return the network under a plan, its factors random, as nothing is decomposed for it."""
        return stand_in(self._dense, self._network, plan)

    def network_ratio(self, small: nn.Module, seconds: float) -> Interval:
        """Time a compressed network in turn with the dense one.

        Args:
            small: As `compressed` returns it.
            seconds: After which to stop, but not before the fewest rounds.

        Returns:
            Its time over that of the dense network, between the ends of the 95 % confidence
            interval.

        Raises:
            CannotRun: If the runtime does not take the network, or memory is too full for it.
        """
        runs = [self.sides.network(small), self.sides.network(self._dense)]
        limit, attended = max(seconds, MOMENT), self.run_queue.attended
        with untouched(small, self._dense):
            times = race(runs, RATIO_PRECISION / 2, limit, attended=attended)
        self.steadiness.add(times[1])
        low, ratio, high = interval(times[0] / times[1])
        return low, ratio, high

    def activations(self, small: nn.Module) -> float:
        """Return the peak activation memory of a compressed network over the dense one's.

        That is of one image, where memory is too full for all that the example input holds.
        """
        try:
            return peak_activation_bytes(small, self._arguments) / self._dense_activations
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        image = self._arguments.images(0, 1)
        return peak_activation_bytes(small, image) / peak_activation_bytes(self._dense, image)

    @cached_property
    def _dense_activations(self) -> int:
        return max(peak_activation_bytes(self._dense, self._arguments), 1)

    @cached_property
    def _touched(self) -> int:
        """Bytes that a pass through the dense network touches."""
        weights = sum(p.numel() * p.element_size() for p in self._network.parameters())
        return weights + self._dense_activations

    def _runner(self, network: nn.Module) -> Callable[[], object]:
        return lambda: self._arguments.run(network)

    def _names(self) -> list[str]:
        return [layer.name for layer in self.layers]
