"""What the figures have in common: colours, symbols, axes, and text that stays text."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

BLUE, RED, GREY = "#0072B2", "#D55E00", "#767676"
RIVALS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#A6761D", "#000000")
"""After Okabe and Ito: apart for every kind of colour vision, on white and on black alike."""

SYMBOLS = ("square", "diamond", "triangle-up", "triangle-down", "cross", "x", "pentagon", "hexagon")
"""No two rivals differ by colour alone."""

AXES = {
    "error": "error of the plan",
    "flops": "FLOPs",
    "params": "parameters",
    "latency_ms": "latency in ms",
    "score": "score",
}
"""Column of a front -> what an axis calls it."""


def escaped(text: object) -> str:
    """Return text as plotly shows it letter by letter: names of layers may look like HTML."""
    return html.escape(str(text))


def axis(title: str, log: bool = False, **more: Any) -> Mapping[str, Any]:
    """Return an axis."""
    kind = {"type": "log"} if log else {}
    return {"title": {"text": title}, "zeroline": False, "automargin": True, **kind, **more}


LEGEND = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0.0}
MARGIN = {"l": 60, "r": 16, "t": 34, "b": 48}
