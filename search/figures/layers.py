"""A plan layer by layer: the share of FLOPs before and after."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from search.figures.style import BLUE, GREY, LEGEND, MARGIN, axis, escaped
from sekron.network.figure import graph_objects

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def layers_figure(layers: pd.DataFrame) -> Figure:
    """Draw two bars per layer, in the order of execution.

    Args:
        layers: As `SearchResult.layers` returns it for a plan.

    Raises:
        ImportError: If plotly is not installed.
    """
    places = list(range(1, len(layers) + 1))
    names = [escaped(name) for name in layers["layer"]]
    before = [
        f"<b>{name}</b><br>{share:.2%} of the FLOPs" + (f"<br>{escaped(reason)}" if reason else "")
        for name, share, reason in zip(names, layers["flops_share"], layers["reason"], strict=True)
    ]
    after = [
        f"<b>{name}</b><br>{share:.2%} of the FLOPs after<br>{escaped(structure) or 'dense'}"
        for name, share, structure in zip(
            names, layers["flops_share_after"], layers["structure"], strict=True
        )
    ]
    bars = [
        {
            "type": "bar",
            "name": name,
            "x": places,
            "y": layers[column].tolist(),
            "hovertext": texts,
            "hovertemplate": "%{hovertext}<extra></extra>",
            "marker": {"color": colour},
        }
        for name, column, texts, colour in (
            ("before", "flops_share", before, GREY),
            ("after", "flops_share_after", after, BLUE),
        )
    ]
    return graph_objects().Figure(
        data=bars,
        layout={
            "barmode": "group",
            "bargap": 0.25,
            "xaxis": axis("layer, in the order of execution"),
            "yaxis": axis("share of the dense FLOPs", tickformat=".0%"),
            "legend": LEGEND,
            "margin": MARGIN,
        },
    )
