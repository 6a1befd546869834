"""A copy of a network, also of one that `copy.deepcopy` refuses."""

from __future__ import annotations

import copy
import copyreg
import io
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, NoneType
from typing import Any, NamedTuple, TypeVar
from weakref import ref

from torch import Tensor, nn

from sekron.forward.evaluation import one_line
from sekron.network.closures import renew_functions

Network = TypeVar("Network", bound=nn.Module)

ATOMIC = (
    *(NoneType, bool, int, float, complex, str, bytes, type, range, property, ref),
    *(BuiltinFunctionType, CodeType),
)
"""What a copy has in common with its original."""


class Place(NamedTuple):
    """Where in a network something was found."""

    module: nn.Module
    attribute: str = ""


def copy_of(network: Network) -> Network:
    """Return a copy of a network as `copy.deepcopy` does, and of some that it refuses.

    Tensors that were computed, such as the `weight` of `torch.nn.utils.weight_norm` or an output
    that a module keeps, are copied without their past. What cannot be copied, such as a lock or an
    open file, is shared. A function that holds a part of the network, as a hook may, holds that
    part of the copy.

    Args:
        network: Or a part of one; not modified.

    Raises:
        ValueError: If a module keeps an iterator, which would be used up, or refuses to be copied;
            the module and its attribute are named.
    """
    memo: dict[int, Any] = {}
    reached = _reached(network, memo)
    known = dict(memo)
    try:
        twin = copy.deepcopy(network, memo)
    except Exception as error:  # whatever a class raises
        raise ValueError(
            f"the network must be one that can be copied, but {_refusing(network, known)} raised "
            f"{one_line(error)}; delete it, or give its class a `__deepcopy__`."
        ) from error
    renew_functions(reached, memo)
    return twin


def _reached(network: nn.Module, memo: dict[int, Any]) -> dict[int, object]:
    """Return id -> object, for all that a copy goes through.

    Args:
        network: Where to start.
        memo: Id -> what `copy.deepcopy` takes for a copy; filled for all that it would refuse.

    Raises:
        ValueError: If there is an iterator.
    """
    reached: dict[int, object] = {}
    pending: list[tuple[Place, object]] = [(Place(network), network)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, ATOMIC) or id(value) in reached:
            continue
        reached[id(value)] = value  # and so it stays: no other object gets its id
        try:
            parts = _parts(value)
        except Exception as error:  # it refuses to be taken apart
            if isinstance(value, Iterator) and not isinstance(value, io.IOBase):
                raise ValueError(
                    f"the network must be one that can be copied, but {_text(network, place)} is a "
                    f"{type(value).__name__}, which a copy would use up; make it a list, or delete "
                    "it."
                ) from error
            if not isinstance(value, nn.Module):
                memo[id(value)] = value
            continue
        if isinstance(value, Tensor) and _has_past(value):
            memo[id(value)] = _without_past(value, memo)
        if isinstance(value, nn.Module):
            pending += [(Place(value, str(name)), part) for name, part in parts.items()]
        else:
            pending += [(place, part) for part in parts.values()]
    return reached


def _parts(value: Any) -> Mapping[Any, object]:
    """Return what is copied with an object; those of a module by the names of its attributes.

    Raises:
        Exception: If `copy.deepcopy` would refuse it.
    """
    if isinstance(value, FunctionType):
        return {}
    if isinstance(value, MethodType):
        return {"__self__": value.__self__}
    if hasattr(value, "__deepcopy__"):
        return vars(value) if isinstance(value, nn.Module | Tensor) else {}
    if type(value) in (dict, OrderedDict):
        return dict(enumerate((*value, *value.values())))
    if type(value) in (list, tuple, set, frozenset):
        return dict(enumerate(value))
    return _reduced(value)


def _reduced(value: object) -> Mapping[Any, object]:
    """Return the parts of an object of any class, which `copy.deepcopy` has from pickle."""
    reduce = copyreg.dispatch_table.get(type(value))
    reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
    if isinstance(reduced, str):
        return {}
    _, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if isinstance(value, nn.Module) and isinstance(state, dict):
        return state
    return dict(enumerate((*arguments, state, *(items or ()), *(pairs or ()))))


def _has_past(tensor: Tensor) -> bool:
    return not tensor.is_leaf or (tensor.grad is not None and not tensor.grad.is_leaf)


def _without_past(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """Return a copy that does not know what it, or its gradient, was computed from."""
    twin = copy.deepcopy(tensor.detach(), memo)
    if not tensor.is_leaf:
        return twin
    if isinstance(tensor, nn.Parameter):
        twin = nn.Parameter(twin)
    assert tensor.grad is not None
    twin.grad = copy.deepcopy(tensor.grad.detach(), memo)
    return twin.requires_grad_(tensor.requires_grad)


def _refusing(network: nn.Module, memo: Mapping[int, Any]) -> str:
    """Say which module refuses to be copied, and which attribute of it, if it is one."""
    for module in reversed(list(network.modules())):  # what is inside comes first
        for attribute, part in vars(module).items():
            if attribute != "_modules" and not _is_copied(part, memo):
                return _text(network, Place(module, attribute))
        if not _is_copied(module, memo):
            return _text(network, Place(module))
    return "it"


def _is_copied(value: object, memo: Mapping[int, Any]) -> bool:
    try:
        copy.deepcopy(value, dict(memo))
    except Exception:
        return False
    return True


def _text(network: nn.Module, place: Place) -> str:
    name = next(name for name, module in network.named_modules() if module is place.module)
    module = f"{f'module {name!r}' if name else 'the network'} ({type(place.module).__name__})"
    return f"{place.attribute!r} of {module}" if place.attribute else module
