"""What takes part in a race: networks and layers, each made ready in a runtime once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search.clock.race import EAGER, forward, synchronized
from sekron.export.one_layer import Calls, NoCall
from sekron.export.refusal import CannotRun
from sekron.export.runtimes import Ready, make_ready
from sekron.forward.evaluation import one_line, untouched
from sekron.forward.inputs import Arguments

Run = Callable[[], object]
Made = TypeVar("Made")

FULL = ("can't allocate memory", "ALLOC_FAILED")
"""What torch says of a full memory where it raises a plain RuntimeError: the CPU's, or cuDNN's."""

RUNTIMES_FULL = ("Failed to allocate memory", "bad_alloc", "out of memory")
"""What else runtimes say of it: ONNX Runtime, OpenVINO, and CUDA under any of them."""

MOST_KEPT = 8
"""Kinds of dense layers kept ready: each is two sessions of a runtime with threads of their own.

What is timed goes to and fro between kinds: with one kept, a search made them ready 25 times for
43 races of 7 kinds, with eight 7 times."""

LEAST = 0.1
"""Share of a layer's time that is its own, at least: the rest is the way into the runtime."""


class NoMemory(CannotRun):
    """What there is no memory for, which is so now: at another time it may run."""


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
            NoMemory: If memory is too full for it.
        """
        if self.is_eager:
            run = forward(model, self._arguments, EAGER)
            with untouched(model):
                refused = _tried(run)
            if refused is not None:
                raise refused
            return run
        if model not in self._networks:
            start = time.perf_counter()
            made = _made(partial(forward, model, self._arguments, self.runtime))
            if isinstance(made, CannotRun):
                raise made
            self._networks[model] = made
            self.network_seconds = time.perf_counter() - start
        return self._networks[model]

    def layers(
        self, key: str, dense: nn.Module, candidates: Sequence[nn.Module], inputs: Sequence[Tensor]
    ) -> list[Run | CannotRun]:
        """Return the calls of a layer and of its candidates, alone.

        Args:
            key: Of the layer; what is dense is made ready once for all layers of a key, and once
                more if `MOST_KEPT` others had their turn since.
            dense: The layer.
            candidates: That take the same inputs.
            inputs: One of each call.

        Returns:
            The dense layer, the candidates and, but in torch itself, what it takes to call the
            runtime for nothing. In the place of a candidate that the runtime does not take, or for
            which memory is too full: why.

        Raises:
            CannotRun: If the runtime does not take the dense layer.
        """
        if self.is_eager:
            first, *others = [_eager(module, inputs) for module in (dense, *candidates)]
            return [first, *(_tried(run) or run for run in others)]
        arguments = Arguments(tuple(inputs))
        ready = self._dense.pop(key, None) or (
            self._ready(Calls(dense), arguments),
            self._ready(NoCall(), arguments),
        )
        self._dense[key] = ready  # the last to be given back
        while len(self._dense) > MOST_KEPT:
            del self._dense[next(iter(self._dense))]
        first, last = (partial(side.run, arguments) for side in ready)
        return [first, *(self._tried_ready(Calls(c), arguments) for c in candidates), last]

    def own(self, times: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the layers' own part of the times of `layers`: a network is called only once.

        Args:
            times: Seconds, shape `(sides, rounds)`.
        """
        if self.is_eager:
            return times
        layers, call = times[:-1], float(np.median(times[-1]))
        return np.maximum(layers - call, LEAST * layers)

    def _tried_ready(self, candidate: nn.Module, arguments: Arguments) -> Run | CannotRun:
        made = _made(partial(self._ready, candidate, arguments))
        return made if isinstance(made, CannotRun) else partial(made.run, arguments)

    def _ready(self, layer: nn.Module, arguments: Arguments) -> Ready:
        start = time.perf_counter()
        ready = make_ready(self.runtime, layer.eval(), arguments)
        self.layer_seconds = time.perf_counter() - start
        return ready


def _eager(module: nn.Module, inputs: Sequence[Tensor]) -> Run:
    return synchronized(lambda: [module(x) for x in inputs], inputs)


def _made(make: Callable[[], Made]) -> Made | CannotRun:
    """Make something ready in a runtime; return why not, if the runtime does not take it."""
    try:
        return make()
    except CannotRun as error:
        if not _is_full(error):
            return error
        reason = str(error)
    return NoMemory(reason)  # as below


def _is_full(error: CannotRun) -> bool:
    """Whether a runtime refused something since memory is full."""
    cause = error.__cause__
    while cause is not None:
        if any(said in str(cause) for said in (*FULL, *RUNTIMES_FULL)):
            return True
        cause = cause.__cause__
    return False


def _tried(run: Run) -> NoMemory | None:
    """Run something once in torch itself; return why not, if it takes more memory than there is."""
    try:
        run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = one_line(error)
    else:
        return None
    # Without the cause, whose frames hold the memory.
    return NoMemory(f"torch must have memory for it, but has not: {reason}.")


def is_out_of_memory(error: Exception) -> bool:
    """Whether torch says that memory is full."""
    is_own = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_own or (isinstance(error, RuntimeError) and any(f in str(error) for f in FULL))
