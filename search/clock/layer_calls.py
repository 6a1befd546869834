"""What happens at the layers of a network while it runs: their inputs, and their seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Call:
    """The input of one call of a layer: enough to make another like it.

    Attributes:
        shape: Of the input.
        stride: In elements.
        dtype: Of the input, which is not that of the layer's weight where autocast is on.
        device: That holds it.
        autocast: The dtype to which autocast is set there, None where it is off.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    autocast: torch.dtype | None

    @classmethod
    def of(cls, x: Tensor) -> Call:
        """Return what a layer is called on here and now."""
        device = x.device.type
        is_on = torch.is_autocast_enabled(device)
        autocast = torch.get_autocast_dtype(device) if is_on else None
        return cls(tuple(x.shape), x.stride(), x.dtype, x.device, autocast)

    def make(self) -> Tensor:
        """Return random numbers in that shape and memory layout; the caller's stay as they are."""
        # Elements of an expanded input share memory, which torch does not fill through them.
        axes = zip(self.shape, self.stride, strict=True)
        n_elements = 1 + sum(max(size - 1, 0) * step for size, step in axes)
        memory = torch.empty(n_elements, dtype=self.dtype, device=self.device)
        memory.normal_(generator=torch.Generator(self.device).manual_seed(0))
        return memory.as_strided(self.shape, self.stride)

    def without_autocast(self, dtype: torch.dtype) -> Call:
        """Return the same; where autocast is on, as if all was computed in the weight's dtype."""
        return self if self.autocast is None else replace(self, dtype=dtype, autocast=None)

    def __str__(self) -> str:
        """Return all of it but the device."""
        autocast = "" if self.autocast is None else f" in autocast to {self.autocast}"
        return f"{self.shape} {self.stride} {self.dtype}{autocast}"


def autocast_of(calls: Sequence[Call]) -> torch.autocast:
    """Return the context in which a network calls a layer: autocast, if it is on for any call."""
    call = next((call for call in calls if call.autocast is not None), calls[0])
    return torch.autocast(call.device.type, call.autocast, call.autocast is not None)


def record(
    network: nn.Module, names: Sequence[str], forward: Callable[[], object]
) -> dict[str, list[Call]]:
    """Return layer name -> the input of each of its calls in one forward pass."""
    calls: dict[str, list[Call]] = {name: [] for name in names}

    def recorder(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            calls[name].append(Call.of(inputs[0] if inputs else named["input"]))

        return hook

    handles = [
        network.get_submodule(name).register_forward_pre_hook(recorder(name), with_kwargs=True)
        for name in calls
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return calls


@contextmanager
def watched(
    network: nn.Module, names: Sequence[str], finish: Callable[[], object]
) -> Iterator[dict[str, list[float]]]:
    """Collect layer name -> the seconds of every one of its calls.

    Args:
        network: Runs inside the context.
        names: Of its layers.
        finish: Returns when the device has done what it was given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in names}
    started: list[float] = []

    def now() -> float:
        finish()
        return time.perf_counter()

    def start(*_: object) -> None:
        started.append(now())

    def stop(name: str) -> Callable[..., None]:
        return lambda *_: seconds[name].append(now() - started.pop())

    handles = []
    for name in seconds:
        module = network.get_submodule(name)
        handles += [
            module.register_forward_pre_hook(start),
            module.register_forward_hook(stop(name)),
        ]
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()
