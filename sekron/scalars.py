"""Numbers as users give them: Python's own, numpy's, or torch's without an axis."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def whole(name: str, value: Any) -> int:
    """Return a whole number as an int.

    Args:
        name: Of the argument, for the error.
        value: An int, or what counts as one: `numpy.int64`, a tensor without an axis, 3.0.

    Raises:
        TypeError: If it is no whole number.

    Example:
        >>> import numpy
        >>> whole("steps", numpy.int64(3))
        3
    """
    found = as_python(value)
    if not isinstance(found, int) and not (isinstance(found, float) and found.is_integer()):
        raise TypeError(f"`{name}` must be a whole number, got {value!r}.")
    return int(found)


def number(name: str, value: Any) -> float:
    """Return a number as a float, or as an int where it is one.

    Args:
        name: Of the argument, for the error.
        value: A float or an int, or what counts as one: `numpy.float32`, a tensor without an axis.

    Raises:
        TypeError: If it is no real number.
    """
    found = as_python(value)
    if not isinstance(found, float | int):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    return int(found) if isinstance(found, int) else found


def as_python(value: Any) -> Any:
    """Return a number without an axis as Python's int, float or bool; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
