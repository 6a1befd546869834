"""Open modules that hide linear layers, so that these can be replaced like any other."""

from __future__ import annotations

from collections.abc import Collection
from itertools import chain

from torch import nn

from sekron.network.copying import copy_of
from sekron.network.openers import opener_of
from sekron.network.swap import swap


def opened(model: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Return a copy of a network with modules opened, or the network itself if there are none.

    Args:
        model: Not modified.
        names: As in `open_modules`.
    """
    return open_modules(copy_of(model), names) if closed(model, names) else model


def open_modules(network: nn.Module, names: Collection[str] | None = None) -> nn.Module:
    """Open, in place, modules that compute with the weights of linear layers without calling any.

    Attention gets its projections as linear layers, a `Conv1D` becomes one. The network computes
    the same; its layers have the names by which plans and profiles know them.

    Args:
        network: Whose modules may be taken apart.
        names: Layers to get at, or modules to open; only what these are in is opened. Default all.
    """
    replacements = {}
    for name in closed(network, names):  # of which none is a part of another that is replaced
        module = network.get_submodule(name)
        opener = opener_of(module)
        replacement = None if opener is None else opener(module)
        if replacement is not None and replacement is not module:
            replacements[name] = replacement
    return swap(network, replacements)


def closed(network: nn.Module, names: Collection[str] | None = None) -> list[str]:
    """Return the names of modules that can be opened, each after what it is a part of.

    Those of which a parameter stands elsewhere too, or is no plain one, stay as they are.
    """
    wanted = {
        id(module)
        for name, module in network.named_modules(remove_duplicate=False)
        if names is None or any(_is_within(layer, name) for layer in names)
    }
    users: dict[int, int] = {}
    for parameter in chain.from_iterable(m._parameters.values() for m in network.modules()):
        users[id(parameter)] = users.get(id(parameter), 0) + 1
    return [
        name
        for name, module in network.named_modules()
        if id(module) in wanted
        and opener_of(module) is not None
        and all(
            p is None or (type(p) is nn.Parameter and users[id(p)] == 1)
            for p in module._parameters.values()
        )
    ]


def _is_within(layer: str, name: str) -> bool:
    return not name or layer == name or layer.startswith(f"{name}.")
