"""Whether a profile that was read is one that a network can have."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from math import prod

from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.structures.structure import LARGEST

MOST = 2**60
"""Multiply-adds, so that those of a structure are counted without overflow."""

MOST_AXES = 8
"""Of a weight, or of the positions that a linear layer is applied to."""


def check_profile(profile: NetworkProfile) -> None:
    """Raise a ValueError about the first number that cannot be."""
    for resource in ("flops", "params"):
        if not 1 <= profile.dense(resource) <= MOST:
            raise ValueError(f"the network has {resource} {profile.dense(resource)}")
    names = [layer.name for layer in profile.layers]
    if len(set(names)) < len(names):
        raise ValueError("two layers have one name")
    for layer in profile.searched:
        for reason in chain(_of_weight(layer), _of_calls(layer)):
            raise ValueError(f"layer {layer.name!r} has {reason}")


def _of_weight(layer: LayerProfile) -> Iterator[str]:
    """Yield what a searched layer cannot have; what comes after the first may be nonsense."""
    shape = layer.weight_shape
    if not 2 <= len(shape) <= MOST_AXES or not all(1 <= size <= LARGEST for size in shape):
        yield f"weight_shape {shape[:MOST_AXES]}"
    if prod(shape) != layer.params:
        yield f"weight_shape {shape}, params {layer.params}"
    if not 1 <= layer.flops <= MOST:
        yield f"flops {layer.flops}"
    if not layer.calls:
        yield "no calls"


def _of_calls(layer: LayerProfile) -> Iterator[str]:
    groups, n_axes = layer.calls[0].groups, len(layer.weight_shape) - 2
    if groups < 1 or layer.weight_shape[0] % groups:
        yield f"groups {groups}"
    for call in layer.calls:
        around = (call.output_size, call.input_size, call.stride, call.dilation)
        if call.groups != groups:
            yield f"groups {groups} and {call.groups}"
        if max(map(len, around)) > MOST_AXES or (n_axes and set(map(len, around)) != {n_axes}):
            yield f"a call of other than {n_axes} axes"
        if not all(1 <= size <= LARGEST for size in chain(*around)):
            yield f"a call with sizes that are not from 1 to {LARGEST}"
        positions = max(prod(call.output_size) * prod(call.stride), prod(call.input_size))
        if layer.params * positions * len(layer.calls) > MOST:
            yield f"calls of more than {MOST} multiply-adds"
