"""Unlabelled inputs in batches, as loaders and lists hold them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

Batches = Iterable[Tensor | Sequence[Tensor]]


def inputs_of(batches: Batches, what: str) -> Iterator[Tensor]:
    """Yield the inputs one batch after another.

    Args:
        batches: Inputs of a network, or `(input, …)` tuples or lists whose first entry is taken.
        what: Their name, for the errors.

    Raises:
        ValueError: If there are none, or one is no tensor, has no images or is not finite.
    """
    if isinstance(batches, Tensor):
        raise ValueError(f"{what} must be a list or a loader of batches, got one tensor.")
    seen = 0
    for batch in batches:
        x = batch[0] if isinstance(batch, Sequence) and len(batch) else batch
        if not isinstance(x, Tensor):
            raise ValueError(
                f"{what} must hold tensors, or tuples with a tensor first, got "
                f"{type(batch).__name__}."
            )
        if x.dim() == 0 or len(x) == 0:
            raise ValueError(f"{what} must hold images, got a batch of shape {tuple(x.shape)}.")
        if not torch.isfinite(x).all():
            raise ValueError(f"{what} must be finite, got NaN or Inf in a batch.")
        seen += 1
        yield x
    if seen == 0:
        raise ValueError(f"{what} must hold at least one batch, got none.")
