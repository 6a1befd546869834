"""Numbers as users give them: Python's own, numpy's, or torch's without an axis."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

BITS = 64
"""Of a whole number, at most: a larger one may be no float, and no count or seed is one."""


def whole(name: str, value: Any) -> int:
    """Return a whole number as an int.

    Args:
        name: Of the argument, for the error.
        value: An int, or what counts as one: `numpy.int64`, a tensor without an axis, 3.0.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it has more bits than are computed with.

    Example:
        >>> import numpy
        >>> whole("steps", numpy.int64(3))
        3
    """
    found = as_python(value)
    if not isinstance(found, int) and not (isinstance(found, float) and found.is_integer()):
        raise TypeError(f"`{name}` must be a whole number, got {shown(value)}.")
    return _bounded(name, int(found))


def number(name: str, value: Any) -> float:
    """Return a number as a float, or as an int where it is one.

    Args:
        name: Of the argument, for the error.
        value: A float or an int, or what counts as one: `numpy.float32`, a tensor without an axis.

    Raises:
        TypeError: If it is no real number.
        ValueError: If it is an int of more bits than are computed with.
    """
    found = as_python(value)
    if not isinstance(found, float | int):
        raise TypeError(f"`{name}` must be a number, got {shown(value)}.")
    return _bounded(name, int(found)) if isinstance(found, int) else found


def _bounded(name: str, value: int) -> int:
    if value.bit_length() > BITS:
        raise ValueError(
            f"`{name}` must have at most {BITS} bits, got a number of {value.bit_length()}."
        )
    return value


def shown(value: Any) -> str:
    """Return a value for an error: its text, or class and shape where that has several lines."""
    text = repr(value)
    if "\n" not in text:
        return text
    return f"{type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}"


def as_python(value: Any) -> Any:
    """Return a number without an axis as Python's int, float or bool; anything else as it is."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value
