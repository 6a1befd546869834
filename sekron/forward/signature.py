"""The signature of a network's forward: which arguments it needs, and which it may have."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable

from torch import nn


def n_positional(network: nn.Module) -> float:
    """Return the number of positional arguments that forward takes at most."""
    found = _positional(network)
    return math.inf if any(p.kind is p.VAR_POSITIONAL for p in found) else len(found)


def n_required(network: nn.Module) -> int:
    """Return the number of inputs without which forward does not run, 1 where it names none."""
    return max(len(_required(network)), 1)


def optional(network: nn.Module) -> list[str]:
    """Return the parameters behind the first input that another may go to, but need not.

    One that is by default a flag or a number takes no input.
    """
    is_any = inspect.Parameter.VAR_POSITIONAL
    found = _positional(network)
    behind = found if found and found[0].kind is is_any else found[1:]
    return [p.name for p in behind if p.kind is is_any or p.default is None]


def takes_mapping(network: nn.Module, names: Iterable[str]) -> bool:
    """Whether values of these names are one argument: forward needs one, and none so named."""
    parameters, names = _parameters(network), set(names)
    is_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    is_named = is_any or any(parameter.name in names for parameter in parameters)
    return not is_named and len(_required(network)) == 1


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward; none where Python does not know them."""
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        network = network.module
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    try:
        return list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):  # of a scripted network
        return []


def _positional(network: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward that a positional argument may go to."""
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in _parameters(network) if parameter.kind not in named]


def _required(network: nn.Module) -> list[inspect.Parameter]:
    is_any = inspect.Parameter.VAR_POSITIONAL
    return [p for p in _positional(network) if p.default is p.empty and p.kind is not is_any]
