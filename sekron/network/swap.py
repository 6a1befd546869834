"""Put modules into a network, in all places where others stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from torch import nn


def swap(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put layers into a network by name, in all places where the old ones stand; return it."""
    replacements = {id(network.get_submodule(name)): layer for name, layer in layers.items()}
    if id(network) in replacements:
        return replacements[id(network)]
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if id(child) in replacements:
                parent._modules[name] = replacements[id(child)]
                if name == "_orig_mod":  # torch.compile goes on running what it was made from
                    cast("Any", parent)._initialize()
    return network
