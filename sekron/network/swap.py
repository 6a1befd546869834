"""Put modules into a network, in all places where others stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from operator import is_
from types import FunctionType, MethodType
from typing import Any, cast

from torch import nn

from sekron.network.closures import is_filled


def swap(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put layers into a network by name, in all places where the old ones stand; return it.

    Other attributes of modules are such places too: a network may call a layer that it keeps in a
    list, a dictionary or a tuple, by a bound method, or in a function.

    Raises:
        ValueError: If a module keeps a method of a layer which the new one does not have.
    """
    replacements = {id(network.get_submodule(name)): layer for name, layer in layers.items()}
    if id(network) in replacements:
        return replacements[id(network)]
    seen: set[int] = set()
    for parent in list(network.modules()):
        if id(parent) in replacements:
            continue
        compiled = parent._modules.get("_orig_mod")
        _renewed(vars(parent), replacements, seen)
        if parent._modules.get("_orig_mod") is not compiled:
            cast("Any", parent)._initialize()  # torch.compile goes on running what it was made from
    return network


def _renewed(part: Any, replacements: Mapping[int, nn.Module], seen: set[int]) -> Any:
    """Return what shall stand in the place of a part; itself where that holds no old layer.

    Args:
        part: Of a module; changed in place where that can be.
        replacements: Id of an old layer -> new layer.
        seen: Ids of the parts that were gone through, which may hold themselves.
    """

    def renewed(inner: Any) -> Any:
        return _renewed(inner, replacements, seen)

    if id(part) in replacements:
        return replacements[id(part)]
    if isinstance(part, MethodType) and id(part.__self__) in replacements:
        return _method(part, replacements[id(part.__self__)])
    if isinstance(part, tuple):
        parts = [*map(renewed, part)]
        return part if all(map(is_, part, parts)) else tuple.__new__(type(part), parts)
    if isinstance(part, partial):
        func, args, keywords = map(renewed, (part.func, part.args, part.keywords))
        is_same = func is part.func and args is part.args
        return part if is_same else type(part)(func, *args, **keywords)
    if id(part) not in seen:
        seen.add(id(part))
        _renew(part, renewed)
    return part


def _renew(part: Any, renewed: Callable[[Any], Any]) -> None:
    """Renew in place what a dictionary, a list or a function holds."""
    if isinstance(part, dict | list):
        for place, old in [*(part.items() if isinstance(part, dict) else enumerate(part))]:
            new = renewed(old)
            if new is not old:
                part[place] = new
    if isinstance(part, FunctionType):
        for cell in filter(is_filled, part.__closure__ or ()):
            cell.cell_contents = renewed(cell.cell_contents)
        part.__defaults__ = renewed(part.__defaults__)
        renewed(part.__kwdefaults__)


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
