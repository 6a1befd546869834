"""The rows of a comparison, on disk as soon as they are finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sekron.budget import RESOURCES

MEASURED = ("latency_ms", "speedup", "score", "score_recalibrated")
COLUMNS = (
    *("budget", "method", "ranks_by", "error"),
    *(name for resource in RESOURCES for name in (resource, f"{resource}_ratio")),
    *(*MEASURED, "seconds"),
)
STORED = (*COLUMNS, "fingerprint")

Row = dict[str, object]


class Rows:
    """The rows of a comparison, each on disk as soon as it is finished.

    Args:
        path: Of a CSV file, perhaps of earlier comparisons; None keeps them in memory.
        fingerprint: What the rows depend on besides their keys; others are left alone.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._rows: dict[tuple[str, ...], Row] = {}
        if path is not None and path.exists():
            for row in _read(path).to_dict("records"):
                if row["fingerprint"] == fingerprint:
                    self._rows[_key(row)] = {name: row[name] for name in COLUMNS}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._rows

    def forget(self, methods: Sequence[str]) -> None:
        """Forget the rows of some methods; they are computed and written anew."""
        for key in [key for key in self._rows if key[1] in methods]:
            del self._rows[key]

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._rows[_key(row)] = {name: row[name] for name in COLUMNS}
        if self._path is not None:
            line = pd.DataFrame([{**row, "fingerprint": self._fingerprint}], columns=list(STORED))
            is_new = not self._path.exists() or self._path.stat().st_size == 0
            line.to_csv(self._path, mode="a", header=is_new, index=False)

    def frame(self) -> pd.DataFrame:
        """Return all rows."""
        return pd.DataFrame(list(self._rows.values()), columns=list(COLUMNS))


def _key(row: Mapping[Any, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in COLUMNS[:3])


def _read(path: Path) -> pd.DataFrame:
    """Read the rows of a file, after what a kill left of its last line was cut off.

    Raises:
        ValueError: If it is no comparison; it is then left as it is.
    """
    text = path.read_text(encoding="utf-8")
    header = ",".join(STORED) + "\n"
    if not (text.startswith(header) or header.startswith(text)):
        raise ValueError(
            f"{path} must be a comparison, a CSV with the columns {', '.join(STORED)}, got "
            f"{text.splitlines()[0][:80]!r} first; name another file."
        )
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return (
        pd.read_csv(path, dtype={"fingerprint": str})
        if whole
        else pd.DataFrame(columns=list(STORED))
    )
