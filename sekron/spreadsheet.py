"""Tables as CSV that spreadsheets take for text and numbers, never for formulas."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import StringIO

import pandas as pd

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a cell begins with that a spreadsheet computes."""

TEXT = "'"
"""What a spreadsheet takes for the begin of text; it shows what follows."""


def as_csv(frame: pd.DataFrame, header: bool = True) -> str:
    """Return a table as CSV; a text that would be a formula stands behind an apostrophe.

    Args:
        frame: Its index is left out.
        header: Whether the names of the columns come first.
    """
    return _mapped(frame, _as_text).to_csv(index=False, header=header, lineterminator="\n")


def from_csv(text: str, texts: Iterable[str]) -> pd.DataFrame:
    """Read what `as_csv` wrote.

    Args:
        text: CSV.
        texts: Columns that hold texts, whatever number a cell looks like.
    """
    kinds = dict.fromkeys(texts, str)
    # "None" and "nan" may be texts: a number that is missing is an empty cell.
    frame = pd.read_csv(StringIO(text), dtype=kinds, keep_default_na=False, na_values=[""])
    return _mapped(frame, _as_it_was)


def _mapped(frame: pd.DataFrame, change: Callable[[object], object]) -> pd.DataFrame:
    texts = {
        name: column.map(change)
        for name, column in frame.items()
        if not pd.api.types.is_numeric_dtype(column)
    }
    return frame.assign(**{str(name): column for name, column in texts.items()})


def _as_text(cell: object) -> object:
    return f"{TEXT}{cell}" if _would_compute(cell) else cell


def _as_it_was(cell: object) -> object:
    return str(cell).removeprefix(TEXT) if _would_compute(cell) else cell


def _would_compute(cell: object) -> bool:
    """Whether a cell is a formula, but for apostrophes."""
    return isinstance(cell, str) and cell.lstrip(TEXT).startswith(FORMULA)
