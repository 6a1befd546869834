"""Weights outside of the layers that can be factorized, listed so that none is left unsaid."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import UninitializedParameter

from sekron.layers.factorized import Factorized
from sekron.network.eligibility import KINDS


def leftovers(network: nn.Module) -> dict[str, str]:
    """Return module name -> why its weights stay as they are.

    These are modules that hold a parameter with two axes or more themselves and are neither a
    convolution nor a linear layer; modules that are factorized already; and quantized ones.

    Args:
        network: The network; each of its modules is looked at once.
    """
    inner = {
        part
        for module in network.modules()
        if isinstance(module, (*KINDS, Factorized))
        for part in module.modules()
        if part is not module
    }
    reasons = {}
    for name, module in network.named_modules():
        if isinstance(module, KINDS) or module in inner:
            continue
        if isinstance(module, Factorized):
            reasons[name] = f"is factorized already: {module.structure}"
        elif callable(getattr(module, "weight", None)):
            reasons[name] = "its weight is quantized"
        elif matrices(module):
            kind = type(module).__name__
            reasons[name] = f"{kind} is neither a convolution nor a linear layer"
    return reasons


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return a module's own parameters that have more than one axis, the largest first."""
    parameters = [
        p for p in module.parameters(recurse=False) if not isinstance(p, UninitializedParameter)
    ]
    weights = [p for p in parameters if sum(size > 1 for size in p.shape) > 1]
    return sorted(weights, key=lambda p: -p.numel())
