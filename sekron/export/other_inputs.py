"""Inputs of another batch and another size, made of those that the user gave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sekron.forward.inputs import Arguments
from sekron.forward.tensors import map_tensors

MARGIN = 32
"""By which a size grows: networks that halve it five times take that too."""


def larger_batch(arguments: Arguments) -> Arguments | None:
    """Return the images twice; None where they cannot be told from the rest."""
    return arguments.joined(arguments)


def larger_size(arguments: Arguments) -> Arguments | None:
    """Return the images with rows added that repeat the first ones; None where there are no sizes.

    Sizes are all axes behind the channels, and the length of a batch of integers.
    """
    return _resized(arguments, lambda size: size + MARGIN)


def smaller_size(arguments: Arguments) -> Arguments | None:
    """Return the first half of the images along every axis; None where there are no sizes."""
    return _resized(arguments, lambda size: max(size // 2, 1))


def sizes_of(tensor: Tensor) -> range:
    """Return the axes that another input may have longer, the batch aside."""
    if tensor.is_floating_point():
        return range(2, tensor.dim())
    return range(1, 2) if tensor.dim() == 2 else range(0)


def _resized(arguments: Arguments, change: Callable[[int], int]) -> Arguments | None:
    if not any(map(sizes_of, arguments.tensors)):
        return None

    def resized(tensor: Tensor) -> Tensor:
        for axis in sizes_of(tensor):
            size = tensor.shape[axis]
            rows = torch.arange(change(size), device=tensor.device) % size
            tensor = tensor.index_select(axis, rows)
        return tensor

    positional, named = map_tensors(resized, (arguments.positional, dict(arguments.named)))
    return Arguments(positional, named)
