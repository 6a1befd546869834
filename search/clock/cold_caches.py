"""A layer that runs alone finds its weights in the cache; inside its network it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from search.clock.race import synchronized

OWN_CACHE = 4 << 20
"""Bytes that displace what a core keeps to itself (L2: 0.25 to 2 MiB)."""


def displacing(
    inputs: Sequence[Tensor], others: int, by_one_thread: bool = False
) -> Callable[[], object]:
    """Return what brings the caches to where they are when a layer's turn comes.

    Its weights have been displaced by the rest of the network since the last pass, its input was
    just written.

    Args:
        inputs: Of the layer.
        others: Bytes that the rest of the network touches.
        by_one_thread: Whether to leave torch's other threads alone: they go on spinning for a
            while, where those of another runtime have their turn.
    """
    device = inputs[0].device
    if device.type == "cuda":
        cache = 2 * torch.cuda.get_device_properties(device).L2_cache_size
    else:
        cache = OWN_CACHE * torch.get_num_threads()
    others_memory = torch.zeros(min(others, cache), dtype=torch.uint8, device=device)

    def displace() -> None:
        with _one_thread() if by_one_thread else nullcontext():
            others_memory.add_(1)
            for x in inputs:
                x.sum()

    return synchronized(displace, inputs)


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
