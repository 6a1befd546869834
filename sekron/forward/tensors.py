"""The tensors within a value of any shape, as networks take and return them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import SimpleNamespace
from typing import Any

from torch import Tensor


def tensors_in(value: object) -> list[Tensor]:
    """Return the tensors of a value, in order.

    Args:
        value: A tensor; a mapping, list, tuple, data class or namespace of such, as deep as it
            likes; or anything else, which holds none.

    Example:
        >>> import torch
        >>> [len(t) for t in tensors_in({"loss": None, 0: (torch.ones(2), [torch.ones(3)])})]
        [2, 3]
    """
    return [tensor for _, tensor in named_tensors(value)]


def named_tensors(value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value, in order, with the keys and the places that lead to them.

    Args:
        value: As `tensors_in` takes it.
        name: Of the value itself, before all others.

    Example:
        >>> import torch
        >>> [name for name, _ in named_tensors({"a": torch.ones(2), "b": [torch.ones(3)]})]
        ['a', 'b_0']
    """
    if isinstance(value, Tensor):
        yield name, value
    for key, part in _items(value):
        yield from named_tensors(part, f"{name}_{key}" if name else str(key))


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return a value of the same shape, with the function of every tensor in its place.

    Args:
        function: Of a tensor.
        value: As `tensors_in` takes it; what it holds besides tensors is handed on as it is.

    Example:
        >>> import torch
        >>> map_tensors(lambda tensor: tensor.sum().item(), {"a": torch.ones(2), "b": "text"})
        {'a': 2.0, 'b': 'text'}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return _with_items(value, {key: map_tensors(function, part) for key, part in value.items()})
    if isinstance(value, list | tuple):
        parts = [map_tensors(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if _has_attributes(value):
        mapped = copy.copy(value)
        for name in _names(value):
            object.__setattr__(mapped, name, map_tensors(function, getattr(value, name)))
        return mapped
    return value


def _with_items(value: Mapping[Any, Any], items: dict[Any, Any]) -> Any:
    """Return a mapping of the same class; a plain one where that class cannot be filled."""
    if type(value) is dict or not hasattr(value, "__setitem__"):
        return items
    mapped: Any = copy.copy(value)
    for key, part in items.items():
        mapped[key] = part
    return mapped


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif _has_attributes(value):
        yield from ((name, getattr(value, name)) for name in _names(value))


def _has_attributes(value: object) -> bool:
    is_value = is_dataclass(value) and not isinstance(value, type)
    return is_value or isinstance(value, SimpleNamespace)


def _names(value: Any) -> list[str]:
    if is_dataclass(value):
        return [field.name for field in fields(value) if hasattr(value, field.name)]
    return list(vars(value))


def scalar(name: str, value: object) -> Tensor:
    """Return what a function of the user's has returned, if it is a scalar tensor.

    Args:
        name: Of the function, for the error.
        value: What it returned.

    Raises:
        ValueError: If it is anything else.
    """
    if isinstance(value, Tensor) and value.dim() == 0:
        return value
    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise ValueError(f"`{name}` must return a scalar tensor, got {got}.")
