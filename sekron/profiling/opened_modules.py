"""A network with its attention opened, so far as it still runs."""

from __future__ import annotations

import torch
from torch import nn

from sekron.forward.inputs import Arguments
from sekron.network.copying import copy_of
from sekron.network.opening import closed, opened


def opened_as_it_runs(model: nn.Module, arguments: Arguments) -> nn.Module:
    """Return a network with its modules opened, except those without which it would not run.

    A network may read what an opened module does not have, such as `in_proj_weight`.

    Args:
        model: Not modified; copies of it run in evaluation mode.
        arguments: Arguments of the forward pass.
    """
    names = closed(model)
    network = opened(model, names)
    if not names or _runs(network, arguments):
        return network
    return opened(model, [name for name in names if _runs(opened(model, [name]), arguments)])


def _runs(network: nn.Module, arguments: Arguments) -> bool:
    try:
        with torch.no_grad():
            arguments.run(copy_of(network).eval())
    except Exception:  # whatever the network raises
        return False
    return True
