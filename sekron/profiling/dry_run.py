"""A dry run, which shows what the rest of a network reads of a layer besides calling it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.layers.factorized import HOOKS
from sekron.network.copying import copy_of
from sekron.network.swap import swap

KEPT = ("bias", "stride", "padding", "dilation", "padding_mode", "output_padding")
"""Attributes that a factorized layer has as well."""


class _Witness(nn.Module):
    """A stand-in for a layer, which calls it and notes which of its attributes are read.

    Args:
        layer: The layer; it becomes a part of this module, so that its parameters are found.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.read: list[str] = []
        self.is_called = False
        for hooks in HOOKS:  # they move to what stands in the layer's place
            getattr(self, hooks).update(getattr(layer, hooks))
            getattr(layer, hooks).clear()

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Call the layer."""
        self.is_called = True
        return self.layer(*inputs, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the layer; called only for one that this module does not have."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(self.layer, name)
            if name not in KEPT:
                self.read.append(name)
            return value


def reasons_to_keep(network: nn.Module, names: Sequence[str], inputs: Inputs) -> dict[str, str]:
    """Return layer name -> why nothing else can stand in its place, where that is so.

    A network that reads `layer.weight` would compute something else, or fail, with another layer
    there.

    Args:
        network: Not modified; copies of it run.
        names: Names of layers that run on the arguments.
        inputs: What its forward takes, on which it runs.
    """
    arguments = example_of(inputs, network)
    try:
        return _reads(network, names, arguments)
    except Exception:  # whatever the network raises; a run per layer shows which one is the cause
        reasons: dict[str, str] = {}
        for name in names:
            try:
                reasons |= _reads(network, [name], arguments)
            except Exception as error:
                reasons[name] = (
                    f"the network does not run without its class: {type(error).__name__}"
                )
        return reasons


def _reads(network: nn.Module, names: Sequence[str], arguments: Arguments) -> dict[str, str]:
    network = copy_of(network)
    witnesses = {name: _Witness(network.get_submodule(name)) for name in names if name}
    swap(network, witnesses)
    with torch.no_grad():
        arguments.run(network)
    reasons = {
        name: f"the network reads its {witness.read[0]!r} besides calling it"
        for name, witness in witnesses.items()
        if witness.read
    }
    return reasons | {
        name: "the network calls it by another way than as its submodule"
        for name, witness in witnesses.items()
        if not witness.is_called
    }
