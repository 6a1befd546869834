"""The table of the study: kept in a file, and printed beside what a paper claims."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from studies.low_level.methods import RUNGS

CLAIMS = Path(__file__).with_name("claims.csv")
COSTS = ("flops", "params", "latency_ms", "speedup")
COLUMNS = ("network", "scale", "share", "method", "images", *COSTS, *RUNGS)
SSIM = tuple(f"ssim_{rung}" for rung in RUNGS)
DIGITS = {
    **{"share": 3, "flops": 4, "params": 4, "latency_ms": 0, "speedup": 2},
    **dict.fromkeys(RUNGS, 2),
    **dict.fromkeys(SSIM, 4),
}

Key = dict[str, object]
"""Of a compressed network: network, scale, share and method."""


class Table:
    """Rows in a file, one for each compressed network and set of photographs.

    Args:
        path: Of the file; what is there already is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        columns = [*COLUMNS, *SSIM]
        self.frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)

    def has(self, key: Key) -> bool:
        """Whether there are rows of a network."""
        return bool(self._rows(key).any())

    def add(self, rows: list[dict[str, object]]) -> None:
        """Add rows, and write the file."""
        frames = [frame for frame in (self.frame, pd.DataFrame(rows)) if not frame.empty]
        self.frame = pd.concat(frames, ignore_index=True).reindex(columns=[*COLUMNS, *SSIM])
        self._write()

    def fill(self, key: Key, values: Mapping[str, float]) -> None:
        """Fill columns in all rows of a network, and write the file."""
        for column, value in values.items():
            self.frame.loc[self._rows(key), column] = value
        self._write()

    def untimed(self) -> list[Key]:
        """Return the networks whose rows have no latency."""
        names = list(COLUMNS[:4])
        rows = self.frame.loc[self.frame["latency_ms"].isna(), names].drop_duplicates()
        return [dict(zip(names, row, strict=True)) for row in rows.itertuples(index=False)]

    def beside_claims(self, data: str) -> str:
        """Return the table as text, with the rows of the papers at its end.

        Args:
            data: Where the photographs are from.
        """
        measured = self.frame.assign(source=f"measured, {data}")
        claims = pd.read_csv(CLAIMS)
        claims["source"] = "claimed by the " + claims["source"]
        both = pd.concat([measured, claims], ignore_index=True).round(DIGITS)
        return both.drop(columns=list(SSIM[1:3])).to_string(index=False, na_rep="")

    def _rows(self, key: Key) -> pd.Series[bool]:
        matches = pd.Series(True, index=self.frame.index)
        for column, value in key.items():
            matches &= self.frame[column] == value
        return matches

    def _write(self) -> None:
        self.frame.round(DIGITS).to_csv(self._path, index=False)
