"""Images with their channels last in memory, which a processor convolves in less time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sekron.export.difference import TOLERANCE, largest_difference
from sekron.forward.evaluation import untouched
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import map_tensors, tensors_in


@contextmanager
def channels_last(networks: Sequence[nn.Module], example: Arguments) -> Iterator[None]:
    """Have networks take images with the channels last within the block, where that is the same.

    It changes no number but by rounding. A network that depends on the order in memory, as `view`
    does, goes on as it is, and so do all others then; and so does one on another device than the
    CPU.

    Args:
        networks: Called within the block; what they are given need not be in any order.
        example: One batch.
    """
    with ExitStack() as stack:
        is_turned = any(_with_channels_last(x) is not x for x in example.tensors)
        if is_turned and all(_is_alike(network, example) for network in networks):
            for network in networks:
                handle = network.register_forward_pre_hook(_turned, with_kwargs=True)
                stack.callback(handle.remove)
        yield


def _is_alike(network: nn.Module, example: Arguments) -> bool:
    """Whether a network puts out the same for images with their channels last."""
    try:
        with untouched(network):
            outputs = [batch.run(network) for batch in (_last(example), example)]
    except Exception:  # whatever it raises; if it does on all images, that is told elsewhere
        return False
    return largest_difference(*map(tensors_in, outputs)) <= TOLERANCE


def _turned(_: nn.Module, positional: Any, named: Any) -> tuple[Any, Any]:
    turned = _last(Arguments(positional, named))
    return turned.positional, dict(turned.named)


def _last(arguments: Arguments) -> Arguments:
    last: Arguments = map_tensors(_with_channels_last, arguments)
    return last


def _with_channels_last(tensor: Tensor) -> Tensor:
    if tensor.dim() != 4 or tensor.device.type != "cpu":
        return tensor
    return tensor.contiguous(memory_format=torch.channels_last)
