"""A network as it is used: in evaluation, on inputs that it takes, and afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation without gradients, and back module by module."""
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
        network: Called with it.
        x: One batch.
        what: Where the batch comes from, for the error.

    Raises:
        ValueError: If it does not run; the message says on which shape, and why.
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
