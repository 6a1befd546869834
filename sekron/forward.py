"""A network on batches: it runs in evaluation mode, and is afterwards as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Batches = Iterable[Tensor | Sequence[Tensor]]
"""Unlabelled inputs in batches, as loaders and lists hold them."""

Score = Callable[[nn.Module], float]
"""A function that rates a network; higher is better."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch a network to evaluation without gradients, and back module by module."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def output_of(network: nn.Module, x: Tensor, what: str) -> object:
    """Run a network on one input.

    Args:
        network: The network, in the mode that it is in.
        x: One batch.
        what: Name of the batches, for the error.

    Raises:
        ValueError: If the network does not run; the message says on which shape, and why.
    """
    try:
        return network(x)
    except Exception as error:  # whatever the network raises
        raise ValueError(
            f"the network must run on {what}, but on {tuple(x.shape)} it raised {one_line(error)}"
        ) from error


def one_line(error: BaseException) -> str:
    """Return the class of an error and the first line of what it says."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def without_singles(inputs: Iterable[Tensor]) -> Iterator[Tensor]:
    """Join a batch of a single image to the one before, so that batch norm finds a variance.

    What a loader leaves for its last batch may be that.
    """
    before: Tensor | None = None
    for x in inputs:
        if before is not None:
            if len(x) == 1 and x.shape[1:] == before.shape[1:]:
                before = torch.cat([before, x])
                continue
            yield before
        before = x
    if before is not None:
        yield before


def inputs_of(batches: Batches, what: str) -> Iterator[Tensor]:
    """Yield the inputs one batch after another.

    Args:
        batches: Inputs of a network, or `(input, …)` tuples or lists whose first entry is taken.
        what: Name of the batches, for the errors.

    Raises:
        ValueError: If there is no batch, or one is no tensor, has no images or is not finite.
    """
    if isinstance(batches, Tensor):
        raise ValueError(f"{what} must be a list or a loader of batches, got one tensor.")
    n_batches = 0
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
        n_batches += 1
        yield x
    if n_batches == 0:
        raise ValueError(f"{what} must hold at least one batch, got none.")
