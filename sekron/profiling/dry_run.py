"""What of a layer the rest of its network reads, besides calling it: found by a dry run."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sekron.layers.factorized import HOOKS
from sekron.network.surgery import swap

KEPT = ("bias", "stride", "padding", "dilation", "padding_mode", "output_padding")
"""Attributes that a factorized layer has as well."""


class _Witness(nn.Module):
    """Stands for a layer, calls it, and notes which of its attributes are read from outside.

    Args:
        layer: Becomes a part of this module, so that its parameters are found.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.read: list[str] = []
        self.is_called = False
        for hooks in HOOKS:  # they would get what stands here
            getattr(self, hooks).update(getattr(layer, hooks))
            getattr(layer, hooks).clear()

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Call the layer."""
        self.is_called = True
        return self.layer(*inputs, **named)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer; only asked for what a module does not have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.layer, name)
            if name not in KEPT:
                self.read.append(name)
            return value


def reasons_to_keep(
    network: nn.Module, names: Sequence[str], arguments: tuple[Any, ...]
) -> dict[str, str]:
    """Return layer name -> why nothing else can stand in its place, where that is so.

    A network that reads `layer.weight` would compute something else, or fail, with another layer
    there.

    Args:
        network: Not modified; copies of it run.
        names: Of the layers, which run on the arguments.
        arguments: Of its forward pass, on which it runs.
    """
    try:
        return _read(network, names, arguments)
    except Exception:  # whatever the network raises; one layer after another tells which is why
        found: dict[str, str] = {}
        for name in names:
            try:
                found |= _read(network, [name], arguments)
            except Exception as error:
                found[name] = f"the network does not run without its class: {type(error).__name__}"
        return found


def _read(network: nn.Module, names: Sequence[str], arguments: tuple[Any, ...]) -> dict[str, str]:
    network = copy.deepcopy(network)
    witnesses = {name: _Witness(network.get_submodule(name)) for name in names if name}
    swap(network, witnesses)
    with torch.no_grad():
        network(*arguments)
    read = {
        name: f"the network reads its {witness.read[0]!r} besides calling it"
        for name, witness in witnesses.items()
        if witness.read
    }
    return read | {
        name: "the network calls it by another way than as its submodule"
        for name, witness in witnesses.items()
        if not witness.is_called
    }
