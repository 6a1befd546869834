"""Functions that hold a part of a network, made anew for a copy of it.

`copy.deepcopy` shares functions. A hook that was made around a module would go on to work on the
original: a copy that runs would write into it.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

Reached = Mapping[int, object]
"""Id -> object, for all that is copied with a network."""

FIXED = FunctionType, MethodType, partial, tuple
"""What is made anew only for what it holds, and stands for it wherever that is kept."""


def renew_functions(reached: Reached, memo: dict[int, Any]) -> None:
    """Put functions that hold parts of a copy where it has functions that hold those of a network.

    They are also found in tuples and partial functions, and in lists and dictionaries that a
    function holds. What holds no part of the network is shared.

    Args:
        reached: All that was copied.
        memo: Id -> copy, of `copy.deepcopy`.
    """
    kept = [value for value in reached.values() if isinstance(value, FIXED)]
    parts = {key for key, value in reached.items() if not isinstance(value, FIXED)}
    holding = _leading(kept, parts)
    functions = {key: part for key, part in holding.items() if _is_shared(part, holding)}
    renewed = {**functions, **_leading(kept, functions)}
    twin_of = _Twins(holding, parts, memo)
    for value in reached.values():
        for place, part in _places(value):
            if id(part) in renewed and id(value) in memo:
                _contents(memo[id(value)])[place] = twin_of(part)


def _is_shared(part: object, holding: Container[int]) -> bool:
    """Whether `copy.deepcopy` leaves what holds a part of the network as it is."""
    if isinstance(part, MethodType):  # of which it copies the object alone
        return id(part.__func__) in holding
    return isinstance(part, FunctionType)


class _Twins:
    """What stands in a copy for what functions of a network hold; each is made once.

    Args:
        holding: Id -> object that holds a part of the network.
        parts: Ids of the parts, which `copy.deepcopy` has copied.
        memo: Id -> copy, of `copy.deepcopy`.
    """

    def __init__(
        self, holding: Mapping[int, object], parts: Container[int], memo: dict[int, Any]
    ) -> None:
        self._holding, self._parts, self._memo = holding, parts, memo
        self._twins: dict[int, Any] = {}

    def __call__(self, part: Any) -> Any:
        """Return the twin; of what holds no part of the network, itself."""
        key = id(part)
        if key in self._parts:
            return copy.deepcopy(part, self._memo)
        if key not in self._holding:
            return part
        if key not in self._twins:
            if isinstance(part, FunctionType | list | dict):  # it may hold itself
                self._twins[key] = _blank(part)
                self._fill(self._twins[key], part)
            else:
                self._twins[key] = self._fixed(part)
        return self._twins[key]

    def _fixed(self, part: Any) -> Any:
        if isinstance(part, MethodType):
            return MethodType(self(part.__func__), self(part.__self__))
        if isinstance(part, partial):
            named = {name: self(value) for name, value in part.keywords.items()}
            twin = type(part)(self(part.func), *map(self, part.args), **named)
            vars(twin).update(vars(part))
            return twin
        return tuple.__new__(type(part), map(self, part))

    def _entry(self, value: Any) -> Any:
        """Return what a list or dictionary that is made anew holds: no list that a copy fills."""
        twin = self(value)
        if twin is not value or type(value) not in (list, dict):
            return twin
        return self._twins.setdefault(id(value), copy.copy(value))

    def _fill(self, twin: Any, part: Any) -> None:
        if isinstance(part, list):
            twin[:] = map(self._entry, list.__iter__(part))
        elif isinstance(part, dict):
            twin.clear()
            for name, value in dict.items(part):
                twin[self(name)] = self._entry(value)
        else:
            for old, new in zip(part.__closure__ or (), twin.__closure__ or (), strict=True):
                if is_filled(old):
                    new.cell_contents = self(old.cell_contents)
            twin.__defaults__ = part.__defaults__ and tuple(map(self, part.__defaults__))
            named = part.__kwdefaults__
            twin.__kwdefaults__ = named and {name: self(value) for name, value in named.items()}


def _leading(starts: Iterable[object], ends: Container[int]) -> dict[int, object]:
    """Return id -> object, for all through which an end is reached; none is gone through twice.

    Args:
        starts: Where to begin.
        ends: Ids of what is looked for; it does not count, and is not gone through.
    """
    seen: dict[int, object] = {}
    holders: dict[int, list[int]] = defaultdict(list)
    found: list[int] = []
    pending = [value for value in starts if id(value) not in ends]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        for part in _held(value):
            if id(part) in ends:
                found.append(id(part))
            elif isinstance(part, (*FIXED, list, dict)):
                pending.append(part)
            else:
                continue
            holders[id(part)].append(id(value))
    leading: dict[int, object] = {}
    while found:
        for key in holders.pop(found.pop(), ()):
            leading[key] = seen[key]
            found.append(key)
    return leading


def _held(value: Any) -> tuple[object, ...]:
    """Return what a container holds, or a function by its variables and its defaults.

    Of a class derived from a list or a dictionary no method is called, which may make other parts.
    """
    if isinstance(value, FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or () if is_filled(cell)]
        named = (value.__kwdefaults__ or {}).values()
        return (*cells, *(value.__defaults__ or ()), *named)
    if isinstance(value, MethodType):
        return value.__func__, value.__self__
    if isinstance(value, partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, dict):
        return (*dict.keys(value), *dict.values(value))
    if isinstance(value, list):
        return tuple(list.__iter__(value))
    return tuple(tuple.__iter__(value)) if isinstance(value, tuple) else ()


def is_filled(cell: CellType) -> bool:
    """Whether the variable around a function has a value."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _blank(part: Any) -> Any:
    """Return a function of the same code that holds nothing yet, or a list or dictionary alike."""
    if not isinstance(part, FunctionType):
        return copy.copy(part)
    cells = part.__closure__ and tuple(CellType() for _ in part.__closure__)
    other = FunctionType(part.__code__, part.__globals__, part.__name__, None, cells)
    vars(other).update(vars(part))
    return other


def _places(value: object) -> Iterator[tuple[Any, object]]:
    """Yield key or index and entry of what may hold functions."""
    contents = _contents(value)
    yield from contents.items() if isinstance(contents, dict) else enumerate(contents)


def _contents(value: object) -> Any:
    """Return the entries of a dictionary or a list, or the attributes of an object."""
    return value if isinstance(value, dict | list) else getattr(value, "__dict__", ())
