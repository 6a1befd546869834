"""Frames as what a page's script reads: plain rows, every value once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from search.front.result import SearchResult
from sekron.columns import COLUMNS

SHOWN = (
    *("layer", "kind", "weight_shape", "flops_share", "flops_share_after", "params_share"),
    *("params_share_after", "error", "sensitivity", "ms", "ms_after", "structure", "form"),
    *("calls", "reason"),
)
"""Columns of the table of layers, in this order, where there are such."""

Table = dict[str, Any]


def table_of(frame: pd.DataFrame) -> Table:
    """Return a frame as columns and rows."""
    columns = [str(name) for name in frame.columns]
    return {"columns": [_column(name) for name in columns], "rows": rows_of(frame)}


def front_table(front: pd.DataFrame) -> Table:
    """Return the front, each plan as its row and the number of its layers."""
    frame = front.drop(columns="plan")
    frame.insert(0, "row", range(len(front)))
    frame.insert(1, "layers", [len(plan) for plan in front["plan"]])
    return table_of(frame)


def layers_table(result: SearchResult, front: pd.DataFrame) -> Table:
    """Return what every plan of a front makes of every layer.

    A layer's rows are written once, in `choices`; a plan tells by number which it takes.
    """
    choices: list[list[list[Any]]] = []
    plans = []
    columns: list[str] = []
    for plan in front["plan"]:
        frame = result.layers(plan)
        columns = [name for name in SHOWN if name in frame]
        rows = rows_of(frame[columns])
        choices = choices or [[] for _ in rows]
        taken = []
        for row, known in zip(rows, choices, strict=True):
            if row not in known:
                known.append(row)
            taken.append(known.index(row))
        plans.append(taken)
    return {"columns": [_column(name) for name in columns], "choices": choices, "plans": plans}


def rows_of(frame: pd.DataFrame) -> list[list[Any]]:
    """Return rows of Python's own values; None for what is no finite number."""
    columns = [frame[name].tolist() for name in frame.columns]
    return [[_plain(value) for value in row] for row in zip(*columns, strict=True)]


def _column(name: str) -> dict[str, str]:
    return {"name": name, **asdict(COLUMNS[name])}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "×".join(map(str, value))
    return value
