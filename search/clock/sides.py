"""What takes part in a race: networks and layers, each made ready in a runtime once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from search.clock.race import EAGER, forward, synchronized
from sekron.export.one_layer import Calls, NoCall
from sekron.export.refusal import CannotRun
from sekron.export.runtimes import Ready, make_ready
from sekron.forward.inputs import Arguments

Run = Callable[[], object]

LEAST = 0.1
"""Share of a layer's time that is its own, at least: the rest is the way into the runtime."""


class Sides:
    """Makes networks and layers ready in one runtime. In torch itself they run as they are.

    Attributes:
        network_seconds: That the last network took to be made ready; 0 in torch itself.
        layer_seconds: That the last layer took.

    Args:
        runtime: Its name.
        arguments: What networks run on.
    """

    def __init__(self, runtime: str, arguments: Arguments) -> None:
        self.runtime, self._arguments = runtime, arguments
        self.network_seconds = self.layer_seconds = 0.0
        self._networks: WeakKeyDictionary[nn.Module, Run] = WeakKeyDictionary()
        self._dense: dict[str, tuple[Ready, Ready]] = {}

    @property
    def is_eager(self) -> bool:
        """Whether layers can be watched while their network runs."""
        return self.runtime == EAGER

    @property
    def has_own_threads(self) -> bool:
        """Whether the runtime does not run on torch's threads."""
        return not self.runtime.startswith("torch")

    def network(self, model: nn.Module) -> Run:
        """Return a forward pass of a network.

        Raises:
            CannotRun: If the runtime does not take the network.
        """
        if self.is_eager:
            return forward(model, self._arguments, EAGER)
        if model not in self._networks:
            start = time.perf_counter()
            self._networks[model] = forward(model, self._arguments, self.runtime)
            self.network_seconds = time.perf_counter() - start
        return self._networks[model]

    def layers(
        self, key: str, dense: nn.Module, candidates: Sequence[nn.Module], inputs: Sequence[Tensor]
    ) -> list[Run | CannotRun]:
        """Return the calls of a layer and of its candidates, alone.

        Args:
            key: Of the layer; what is dense is made ready once for all layers of a key.
            dense: The layer.
            candidates: That take the same inputs.
            inputs: One of each call.

        Returns:
            The dense layer, the candidates and, but in torch itself, what it takes to call the
            runtime for nothing. In the place of a candidate that the runtime does not take: why.

        Raises:
            CannotRun: If the runtime does not take the dense layer.
        """
        if self.is_eager:
            return [_eager(module, inputs) for module in (dense, *candidates)]
        arguments = Arguments(tuple(inputs))
        if key not in self._dense:
            self._dense[key] = (
                self._ready(Calls(dense), arguments),
                self._ready(NoCall(), arguments),
            )
        first, last = (partial(side.run, arguments) for side in self._dense[key])
        return [first, *(self._tried(Calls(c), arguments) for c in candidates), last]

    def own(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the layers' own part of the times of `layers`: a network is called only once.

        Args:
            times: Seconds, shape `(sides, rounds)`.
        """
        if self.is_eager:
            return times
        layers, call = times[:-1], float(np.median(times[-1]))
        return np.maximum(layers - call, LEAST * layers)

    def _tried(self, candidate: nn.Module, arguments: Arguments) -> Run | CannotRun:
        try:
            return partial(self._ready(candidate, arguments).run, arguments)
        except CannotRun as error:
            return error

    def _ready(self, layer: nn.Module, arguments: Arguments) -> Ready:
        start = time.perf_counter()
        ready = make_ready(self.runtime, layer.eval(), arguments)
        self.layer_seconds = time.perf_counter() - start
        return ready


def _eager(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
    return synchronized(lambda: [module(x) for x in inputs], inputs)
