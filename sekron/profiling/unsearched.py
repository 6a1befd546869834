"""Weights outside of the layers that can be factorized: listed, so that nothing is left unsaid."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import UninitializedParameter

from sekron.layers.factorized import Factorized
from sekron.network.eligibility import KINDS


def leftovers(network: nn.Module) -> dict[str, str]:
    """Return module name -> why its weights stay as they are.

    Listed is what holds a parameter with two axes or more itself, and is no convolution and no
    linear layer; what is factorized already; and what is quantized.

    Args:
        network: Each of its modules is looked at once.
    """
    inner = {
        part
        for module in network.modules()
        if isinstance(module, (*KINDS, Factorized))
        for part in module.modules()
        if part is not module
    }
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, KINDS) or module in inner:
            continue
        if isinstance(module, Factorized):
            found[name] = f"is factorized already: {module.structure}"
        elif callable(getattr(module, "weight", None)):
            found[name] = "its weight is quantized"
        elif matrices(module):
            kind = type(module).__name__
            found[name] = f"{kind} is neither a convolution nor a linear layer"
    return found


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return a module's own parameters that have more than one axis, the largest first."""
    own = [p for p in module.parameters(recurse=False) if not isinstance(p, UninitializedParameter)]
    real = [p for p in own if sum(size > 1 for size in p.shape) > 1]
    return sorted(real, key=lambda p: -p.numel())
