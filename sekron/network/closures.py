"""Functions that hold a part of a network, made anew for a copy of it.

`copy.deepcopy` shares functions. A hook that was made around a module would go on to work on the
original: a copy that runs would write into it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import CellType, FunctionType, MethodType
from typing import Any

Reached = Mapping[int, object]
"""Id -> object, for all that is copied with a network."""


def renew_functions(reached: Reached, memo: dict[int, Any]) -> None:
    """Put functions that hold parts of a copy where it has functions that hold those of a network.

    Args:
        reached: All that was copied.
        memo: Id -> copy, of `copy.deepcopy`.
    """
    functions = _holding(reached)
    others = {key: _blank(function) for key, function in functions.items()}

    def twin(part: Any) -> Any:
        if id(part) in others:
            return others[id(part)]
        return copy.deepcopy(part, memo) if _belongs(part, reached, others) else part

    for key, function in functions.items():
        other = others[key]
        for old, new in zip(function.__closure__ or (), other.__closure__ or (), strict=True):
            if is_filled(old):
                new.cell_contents = twin(old.cell_contents)
        other.__defaults__ = function.__defaults__ and tuple(map(twin, function.__defaults__))
        named = function.__kwdefaults__
        other.__kwdefaults__ = named and {name: twin(part) for name, part in named.items()}
    for value in reached.values():
        for place, part in _places(value):
            if id(part) in others and id(value) in memo:
                _contents(memo[id(value)])[place] = others[id(part)]


def _holding(reached: Reached) -> dict[int, FunctionType]:
    """Return id -> function that holds a part of the network, or holds another such function."""
    functions: dict[int, FunctionType] = {}
    pending = [value for value in reached.values() if isinstance(value, FunctionType)]
    while pending:
        function = pending.pop()
        if id(function) not in functions:
            functions[id(function)] = function
            pending += [part for part in _held(function) if isinstance(part, FunctionType)]
    holding: dict[int, FunctionType] = {}
    while True:
        more = {
            key: function
            for key, function in functions.items()
            if key not in holding and any(_belongs(p, reached, holding) for p in _held(function))
        }
        if not more:
            return holding
        holding |= more


def _belongs(part: object, reached: Reached, holding: Mapping[int, object]) -> bool:
    """Whether something is a part of the network, or holds one directly."""
    if isinstance(part, FunctionType):
        return id(part) in holding
    if isinstance(part, MethodType):
        return id(part.__self__) in reached
    if isinstance(part, tuple):  # copied only for what it holds
        return any(id(value) in reached for value in part)
    inner = [value for _, value in _places(part)] if isinstance(part, dict | list) else []
    return id(part) in reached or any(id(value) in reached for value in inner)


def _held(function: FunctionType) -> list[object]:
    """Return the variables around a function, and the defaults of its arguments."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if is_filled(cell)]
    return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def is_filled(cell: CellType) -> bool:
    """Whether the variable around a function has a value."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _blank(function: FunctionType) -> FunctionType:
    """Return a function of the same code that holds nothing yet."""
    cells = function.__closure__ and tuple(CellType() for _ in function.__closure__)
    other = FunctionType(function.__code__, function.__globals__, function.__name__, None, cells)
    vars(other).update(vars(function))
    return other


def _places(value: object) -> Iterator[tuple[Any, object]]:
    """Yield key or index and entry of what may hold functions."""
    contents = _contents(value)
    yield from contents.items() if isinstance(contents, dict) else enumerate(contents)


def _contents(value: object) -> Any:
    """Return the entries of a dictionary or a list, or the attributes of an object."""
    return value if isinstance(value, dict | list) else getattr(value, "__dict__", ())
