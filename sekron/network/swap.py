"""Put modules into a network, in all places where others stand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import product
from operator import is_
from types import FunctionType, MethodType
from typing import Any, cast

import torch
from torch import nn

from sekron.layers.factorized import HOOKS
from sekron.network.closures import is_filled
from sekron.network.copying import ATOMIC


def swap(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put layers into a network by name, in all places where the old ones stand; return it.

    Other attributes of modules are such places too: a network may call a layer that it keeps in a
    list, a dictionary or a tuple, by a bound method, or in a function, be it a hook.

    Raises:
        ValueError: If a module keeps a method of a layer which the new one does not have.
    """
    replacements = {id(network.get_submodule(name)): layer for name, layer in layers.items()}
    if id(network) in replacements:
        return replacements[id(network)]
    renewal = _Renewal(replacements)
    for parent in list(network.modules()):
        # A scripted module holds none that can be replaced.
        if id(parent) in replacements or isinstance(parent, torch.jit.ScriptModule):
            continue
        compiled = parent._modules.get("_orig_mod")
        renewal.of(vars(parent))
        if parent._modules.get("_orig_mod") is not compiled:
            cast("Any", parent)._initialize()  # torch.compile goes on running what it was made from
    for layer, hooks in product(layers.values(), HOOKS):
        renewal.of(getattr(layer, hooks))  # that it has from the old one
    return network


class _Renewal:
    """Renews the parts of modules; nothing is gone through twice.

    Args:
        replacements: Id of an old layer -> new layer.
    """

    def __init__(self, replacements: Mapping[int, nn.Module]) -> None:
        self._replacements = replacements
        self._seen: dict[int, tuple[object, Any]] = {}  # with the part, so that its id stays its

    def of(self, part: Any) -> Any:
        """Return what shall stand in the place of a part; itself where that holds no old layer."""
        if id(part) in self._replacements:
            return self._replacements[id(part)]
        if isinstance(part, ATOMIC):
            return part
        if id(part) not in self._seen:
            self._seen[id(part)] = part, part  # it may hold itself
            self._seen[id(part)] = part, self._renewed(part)
        return self._seen[id(part)][1]

    def _renewed(self, part: Any) -> Any:
        """Return a part that is renewed, in place where that can be."""
        if isinstance(part, MethodType):
            layer = self._replacements.get(id(part.__self__))
            function = self.of(part.__func__)  # which may be a function of layers itself
            if layer is not None:
                return _method(part, layer)
            same = function is part.__func__
            return part if same else MethodType(function, part.__self__)
        if isinstance(part, tuple):
            parts = [*map(self.of, part)]
            return part if all(map(is_, part, parts)) else tuple.__new__(type(part), parts)
        if isinstance(part, partial):
            func, args, keywords = map(self.of, (part.func, part.args, part.keywords))
            is_same = func is part.func and args is part.args
            return part if is_same else type(part)(func, *args, **keywords)
        if isinstance(part, dict | list):
            for place, old in [*(part.items() if isinstance(part, dict) else enumerate(part))]:
                new = self.of(old)
                if new is not old:
                    part[place] = new
        if isinstance(part, FunctionType):
            self._renew(part)
        return part

    def _renew(self, function: FunctionType) -> None:
        for cell in filter(is_filled, function.__closure__ or ()):
            new = self.of(cell.cell_contents)
            if new is not cell.cell_contents:
                cell.cell_contents = new
        defaults = self.of(function.__defaults__)
        if defaults is not function.__defaults__:
            function.__defaults__ = defaults
        self.of(function.__kwdefaults__)


def _method(method: MethodType, layer: nn.Module) -> Any:
    """Return what stands for a method of an old layer, or for a function bound to it."""
    name = method.__name__
    if getattr(type(method.__self__), name, None) is not method.__func__:
        return MethodType(method.__func__, layer)
    if not hasattr(layer, name):
        raise ValueError(
            "a module must keep no method of a layer that is replaced by one without it, but one "
            f"keeps {name!r} of a {type(method.__self__).__name__}; keep the layer itself."
        )
    return getattr(layer, name)
