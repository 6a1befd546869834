"""Which layers a user wants searched: by patterns of names, by classes, or by a function."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

Selection = Sequence[str | type[nn.Module]] | Callable[[str, nn.Module], bool]
"""Names of layers, shell-style patterns of them and classes, or a function of name and module."""

LONGEST = 1000
"""Characters of a pattern."""


def patterns_of(
    argument: str, selection: Selection | None, layers: Mapping[str, nn.Module]
) -> tuple[str, ...] | None:
    """Return a selection as patterns of names, which can be written down; None stays None.

    Args:
        argument: Name of the selection, for an error.
        selection: The selection as the user gave it.
        layers: Layer name -> module, for all layers that can be chosen.

    Raises:
        ValueError: If a pattern, a class or the function matches no layer.
    """
    if selection is None:
        return None
    if isinstance(selection, str | type):
        raise ValueError(
            f"`{argument}` must be a list of patterns and classes, got {selection!r} alone."
        )
    examples = f"{', '.join(list(layers)[:4])}, …; `sekron layers` lists all"
    if callable(selection):
        names = [glob.escape(name) for name, module in layers.items() if selection(name, module)]
        if not names:
            raise ValueError(f"`{argument}` must choose a layer, but chooses none of {examples}.")
        return tuple(names)
    patterns: list[str] = []
    for entry in selection:
        if isinstance(entry, str) and entry in layers:  # as it is, whatever characters it has
            matches, what = [glob.escape(entry)], ""
        elif isinstance(entry, str):
            if len(entry) > LONGEST:  # what takes a minute to compile
                raise ValueError(f"a pattern must be of at most {LONGEST} characters.")
            matches = [entry] if any(fnmatchcase(name, entry) for name in layers) else []
            what = f"pattern {entry!r}"
        else:
            matches = [glob.escape(name) for name, m in layers.items() if isinstance(m, entry)]
            what = f"class {entry.__name__}"
        if not matches:
            raise ValueError(f"the {what} must match a layer, but matches none of {examples}.")
        patterns += matches
    return tuple(patterns)


def left_out(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> str:
    """Return why a layer is left dense by choice; empty if it is not."""
    if include is not None and not any(fnmatchcase(name, pattern) for pattern in include):
        return "not in `include`"
    if any(fnmatchcase(name, pattern) for pattern in exclude or ()):
        return "in `exclude`"
    return ""


def sensitive_ends(order: Sequence[str], layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Return layer name -> why it stays dense unless it is named, for such layers.

    Args:
        order: Names of the layers that ran, in that order.
        layers: Layer name -> module.
    """
    convolutions = [name for name in order if not isinstance(layers[name], nn.Linear)]
    linears = [name for name in order if isinstance(layers[name], nn.Linear)]
    ends = {}
    if convolutions:
        ends[convolutions[0]] = "first convolution, left dense unless `include` names it"
    if linears and order[-1] == linears[-1]:
        ends[linears[-1]] = "last linear layer, left dense unless `include` names it"
    return ends
