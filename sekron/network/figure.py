"""One layer's structure as a plotly figure: its tensor network beside the original weight."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sekron.structures.diagram import Place, diagram
from sekron.structures.families import Shape
from sekron.structures.structure import Structure

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLUE, GREY = "#0072B2", "#767676"
"""Of what replaces, and of what is dense; apart for every kind of sight."""

BOX = (0.36, 0.24)
"""Half the width and the height of a factor, in units of the distance of two factors."""


def graph_objects() -> ModuleType:
    """Return plotly's figures, which only those need who look at them.

    Raises:
        ImportError: If plotly is not installed; the message says how to.
    """
    try:
        return import_module("plotly.graph_objects")  # an extra, and slow to import
    except ImportError as error:
        raise ImportError(
            "figures need plotly, which is not installed; pip install 'sekron[report]'."
        ) from error


def structure_figure(structure: Structure) -> Figure:
    """Draw factors as boxes with their shapes, and bonds as lines with their ranks.

    Args:
        structure: Of a layer; what it stands for is drawn at the left.

    Raises:
        ImportError: If plotly is not installed.
    """
    drawn = diagram(structure.bonds)
    parts: list[dict[str, Any]] = [
        {
            "type": "path",
            "path": "M {},{} Q {},{} {},{}".format(*edge.start, *edge.control, *edge.end),
            "line": {"color": GREY, "width": 2},
            "layer": "below",
        }
        for edge in drawn.edges
    ]
    texts = [
        _text((-1.5, 0.0), _size_text(structure.weight_shape)),
        _text((-0.75, 0.0), "≈" if structure.groups == 1 else f"≈ {structure.groups} ×"),
    ]
    boxes = [((-1.5, 0.0), GREY), *((place, BLUE) for place in drawn.nodes)]
    parts += [_box(place, colour) for place, colour in boxes]
    texts += [
        _text(place, _size_text(shape))
        for place, shape in zip(drawn.nodes, structure.shapes, strict=True)
    ]
    for bond, (place, rank) in enumerate(zip(drawn.labels, structure.ranks, strict=True)):
        if bond in drawn.hubs:
            parts.append(_box(place, GREY, (0.14, 0.14)))
        texts.append(_text(place, f"{rank}"))
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    rows = [place[1] for place in (*drawn.nodes, *drawn.labels)]
    columns = [-2.0, max(place[0] for place in drawn.nodes) + 0.5]
    return graph_objects().Figure(
        layout={
            "title": {"text": str(structure)},
            "shapes": parts,
            "annotations": texts,
            "xaxis": {**hidden, "range": columns},
            "yaxis": {**hidden, "range": [max(rows) + 0.5, min(rows) - 0.5], "scaleanchor": "x"},
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 16, "r": 16, "t": 48, "b": 16},  # no axis needs more
        }
    )


def _size_text(shape: Shape) -> str:
    """Return sizes as people write them."""
    return "×".join(map(str, shape))


def _box(place: Place, colour: str, half: tuple[float, float] = BOX) -> dict[str, Any]:
    x, y = place
    return {
        "type": "rect",
        "x0": x - half[0],
        "x1": x + half[0],
        "y0": y - half[1],
        "y1": y + half[1],
        "line": {"color": colour, "width": 2},
        "fillcolor": "white",
        "layer": "below",
    }


def _text(place: Place, text: str) -> dict[str, Any]:
    return {"x": place[0], "y": place[1], "text": text, "showarrow": False}
