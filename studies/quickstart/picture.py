"""The front as a picture that can be read on white and on black: there is nothing behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FASTER, SLOWER = "#7d8590", "#2a8fca", "#e0701a"
"""Each has a contrast of 3 or more to white and to black."""

STYLE = {
    "svg.fonttype": "none",  # text stays text, in the font of the page
    "svg.hashsalt": "sekron",  # else the same picture is another file every time
    "font.family": "sans-serif",
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(front: pd.DataFrame, best: int | None, flops: float, path: Path) -> None:
    """Write a picture of a front: the error over the FLOPs, and over the measured time.

    Args:
        front: As `SearchResult.pareto_front` returns it, with latencies.
        best: Row of the plan for the budget, which is told by its number; None where it is none.
        flops: Share that the budget leaves.
        path: File to write, `.svg` or `.png`.
    """
    time = (1.0 / front["speedup"]).mask(front["flops_ratio"] == 1.0, 1.0)
    with mpl.rc_context(STYLE):
        figure = Figure((8.4, 3.3), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for axes, share, what in ((left, front["flops_ratio"], "FLOPs"), (right, time, "time")):
            _points(axes, 100 * share, front["error"], time)
            axes.set_xlabel(f"{what} in % of the dense network")
        if best is not None:
            _note(left, (100 * front["flops_ratio"][best], front["error"][best]), (12, 45), best)
            _note(right, (100 * time[best], front["error"][best]), (-95, 100), best)
        _line(left, 100 * flops, "budget")
        _line(right, 100, "dense")
        left.set_ylabel("error")
        kinds = left.get_legend_handles_labels()
        right.legend(*kinds, frameon=False, fontsize=9, loc="center right")
        figure.savefig(path, transparent=True, metadata={"Date": None} if _is_svg(path) else None)


def _points(axes: Axes, x: pd.Series[float], y: pd.Series[float], time: pd.Series[float]) -> None:
    """Draw the plans, those that are slower than the dense network in a shape of their own."""
    kinds: tuple[tuple[str, pd.Series[bool], dict[str, Any]], ...] = (
        ("not slower than dense", time <= 1.0, {"color": FASTER, "marker": "o"}),
        ("slower", time > 1.0, {"color": SLOWER, "marker": "D"}),
        ("not timed", time.isna(), {"facecolors": "none", "edgecolors": INK, "marker": "o"}),
    )
    for label, rows, look in kinds:
        if rows.any():
            axes.scatter(x[rows], y[rows], s=22, label=label, **look)


def _note(axes: Axes, at: tuple[float, float], offset: tuple[int, int], row: int) -> None:
    if pd.notna(at[0]):
        line = {"arrowstyle": "-", "color": INK}
        text = f"row {row}, the plan"
        axes.annotate(text, at, offset, textcoords="offset points", arrowprops=line)


def _line(axes: Axes, x: float, text: str) -> None:
    axes.axvline(x, color=INK, linewidth=1, linestyle="--")
    place = (x, axes.get_ylim()[1])
    axes.annotate(text, place, (4, -4), textcoords="offset points", va="top", fontsize=9)


def _is_svg(path: Path) -> bool:
    return path.suffix == ".svg"
