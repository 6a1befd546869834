"""The course of the studies: how early each layer's front was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from search.figures.style import BLUE, LEGEND, MARGIN, axis, escaped
from sekron.network.figure import graph_objects

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def history_figure(history: pd.DataFrame) -> Figure:
    """Draw a line per layer.

    Args:
        history: As `SearchResult.history` returns it.

    Raises:
        ImportError: If plotly is not installed.
    """
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": escaped(layer),
            "x": rows["structures"].tolist(),
            "y": rows["found"].tolist(),
            "line": {"shape": "hv", "color": BLUE, "width": 1},
            "opacity": 0.8,
            "showlegend": False,
            "hovertemplate": f"{escaped(layer)}: %{{y:.1%}} after %{{x}}<extra></extra>",
        }
        for layer, rows in history.groupby("layer", sort=False)
    ]
    return graph_objects().Figure(
        data=lines,
        layout={
            "xaxis": axis("structures scored"),
            "yaxis": axis("share of the final front found", tickformat=".0%", range=[0.0, 1.05]),
            "legend": LEGEND,
            "margin": MARGIN,
            "hovermode": "closest",
        },
    )
