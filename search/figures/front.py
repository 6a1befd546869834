"""The front: every plan a point, with the budget, and with rivals where there are any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search.clock.times import is_wide
from search.figures.style import (
    AXES,
    BLUE,
    GREY,
    LEGEND,
    MARGIN,
    RED,
    RIVALS,
    SYMBOLS,
    axis,
    escaped,
)
from sekron.network.figure import graph_objects
from sekron.network.plan import Plan

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SHOWN = 10
"""Layers of a plan that are told on hover."""

COSTS, QUALITIES = ("flops", "params", "latency_ms"), ("error", "score")
"""What the axes can be."""


def front_figure(
    front: pd.DataFrame,
    best: int | None,
    limits: Mapping[str, float],
    x: str = "flops",
    y: str = "error",
    *,
    log_x: bool = False,
    log_y: bool = False,
    rivals: pd.DataFrame | None = None,
) -> Figure:
    """Draw a front.

    Args:
        front: As `SearchResult.pareto_front` returns it.
        best: Row of the plan for the budget of the search, or None.
        limits: Column -> absolute limit, for what the budget limits.
        x: As `SearchResult.plot_front` takes it.
        y: As there.
        log_x: As there.
        log_y: As there.
        rivals: As `baselines.compare` returns it, its `error` being in the norm of the front.

    Raises:
        ValueError: If an axis is no such column, or nothing of it is known.
        ImportError: If plotly is not installed.
    """
    _check(front, "x", x, COSTS)
    _check(front, "y", y, QUALITIES)
    shown = front.assign(row=np.arange(len(front)), place=front[x], hover=_hovers(front))
    if x == "latency_ms":
        shown["place"] = front["latency_ms"].fillna(front["predicted_ms"])
    shown = shown[np.isfinite(shown["place"]) & np.isfinite(shown[y])]
    measured, wide = shown[x].notna(), pd.Series(False, shown.index)
    if x == "latency_ms":
        wide = is_wide(shown["latency_low_ms"], shown["latency_ms"], shown["latency_high_ms"])
    traces = [
        _steps(shown[~wide], y),
        _points(shown[measured & ~wide], y, "plans", {"color": BLUE, "size": 8}),
    ]
    if wide.any():
        traces.append(_points(shown[wide], y, "not sure", {"color": GREY, "size": 8}))
    if not measured.all():
        predicted = {"color": BLUE, "size": 8, "symbol": "circle-open"}
        traces.append(_points(shown[~measured], y, "predicted", predicted))
    if best is not None and best in set(shown["row"]):
        star = {"color": RED, "size": 15, "symbol": "star"}
        traces.append(_points(shown[shown["row"] == best], y, "best", star))
    if rivals is not None:
        traces += _rivals(rivals, x, y)
    return graph_objects().Figure(
        data=traces,
        layout={
            "xaxis": axis(AXES[x], log_x),
            "yaxis": axis(AXES[y], log_y),
            "legend": LEGEND,
            "margin": MARGIN,
            "hovermode": "closest",
            **_budget(limits, x, y, log_x, log_y),
        },
    )


def _check(front: pd.DataFrame, name: str, column: str, known: tuple[str, ...]) -> None:
    if column not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {column!r}.")
    if column not in front or front[column].isna().all():
        raise ValueError(
            f"`{name}` must be known of a plan, but this search has no {column}; it is "
            f"{'measured by `measure_seconds`' if column == 'latency_ms' else 'taken by `score`'}."
        )


def _points(rows: pd.DataFrame, y: str, name: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": rows["place"].tolist(),
        "y": rows[y].tolist(),
        "customdata": rows["row"].tolist(),
        "text": rows["hover"].tolist(),
        "hovertemplate": "%{text}<extra></extra>",
        "marker": marker,
    }


def _steps(rows: pd.DataFrame, y: str) -> dict[str, Any]:
    """Return the line that no plan is beyond."""
    ordered = rows.sort_values("place")
    reached = ordered[y].cummin() if y == "error" else ordered[y].cummax()
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "reached",
        "x": ordered["place"].tolist(),
        "y": reached.tolist(),
        "line": {"shape": "hv", "color": GREY, "width": 1},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _rivals(rivals: pd.DataFrame, x: str, y: str) -> list[dict[str, Any]]:
    if x not in rivals or y not in rivals:
        return []
    known = rivals[np.isfinite(rivals[x]) & np.isfinite(rivals[y])]
    return [
        {
            "type": "scatter",
            "mode": "markers",
            "name": escaped(method),
            "x": rows[x].tolist(),
            "y": rows[y].tolist(),
            "text": [
                f"{escaped(method)}, ranks by {escaped(ranks)}, {escaped(budget)}"
                for ranks, budget in zip(rows["ranks_by"], rows["budget"], strict=True)
            ],
            "hovertemplate": "%{text}<br>%{x:.4s}, %{y:.4g}<extra></extra>",
            "marker": {
                "color": RIVALS[i % len(RIVALS)],
                "symbol": SYMBOLS[i % len(SYMBOLS)],
                "size": 9,
            },
        }
        for i, (method, rows) in enumerate(known.groupby("method", sort=False))
    ]


def _budget(
    limits: Mapping[str, float], x: str, y: str, log_x: bool, log_y: bool
) -> dict[str, Any]:
    """Return lines at the limits of both axes."""
    line = {"color": RED, "width": 1.5, "dash": "dash"}
    shapes, notes = [], []
    note = {"text": "budget", "showarrow": False, "font": {"color": RED}}
    if x in limits:
        at = limits[x]
        shapes.append({"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1})
        place = math.log10(at) if log_x else at
        notes.append({**note, "x": place, "yref": "paper", "y": 1, "xanchor": "left"})
    if y in limits:
        at = limits[y]
        shapes.append({"type": "line", "y0": at, "y1": at, "xref": "paper", "x0": 0, "x1": 1})
        place = math.log10(at) if log_y and at > 0 else at
        notes.append({**note, "y": place, "xref": "paper", "x": 1, "yanchor": "bottom"})
    return {"shapes": [{**shape, "line": line} for shape in shapes], "annotations": notes}


def _hovers(front: pd.DataFrame) -> list[str]:
    """Return what is told of each plan: its numbers, then its layers."""
    texts = []
    for row, values in enumerate(front.to_dict("records")):
        plan = values.pop("plan")
        numbers = [
            f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}"
            for name, value in values.items()
            if not math.isnan(value)
        ]
        texts.append("<br>".join([f"<b>plan {row}</b>, {len(plan)} layers", *numbers, *_of(plan)]))
    return texts


def _of(plan: Plan) -> list[str]:
    told = [f"{escaped(name)} {structure}" for name, structure in list(plan.items())[:SHOWN]]
    return told + ([f"and {len(plan) - SHOWN} more"] if len(plan) > SHOWN else [])
