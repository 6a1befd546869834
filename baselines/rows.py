"""The rows of a comparison, on disk as soon as they are finished."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sekron.budget import RESOURCES
from sekron.records import check_no_link, read_text, replacing, short, unwritten
from sekron.spreadsheet import as_csv, from_csv

MEASURED = ("latency_ms", "speedup", "score", "score_recalibrated", "score_repaired")
COLUMNS = (
    *("budget", "method", "ranks_by", "error", "error_in_metric"),
    *(name for resource in RESOURCES for name in (resource, f"{resource}_ratio")),
    *(*MEASURED, "seconds"),
)
STORED = (*COLUMNS, "fingerprint")

TEXTS = (*COLUMNS[:3], "fingerprint")
"""Columns that hold no numbers, whatever stands there."""

SEAL = "-"
"""What stands between a fingerprint and the checksum of its row; older rows have none."""

Row = dict[str, object]


class Rows:
    """The rows of a comparison, each on disk as soon as it is finished.

    Args:
        path: Path of a CSV file, perhaps of earlier comparisons; None keeps the rows in memory.
        fingerprint: What the rows depend on besides their keys; rows of another one are left alone.
    """

    def __init__(self, path: Path | None, fingerprint: str) -> None:
        self._path, self._fingerprint = path, fingerprint
        self._rows: dict[tuple[str, ...], Row] = {}
        self._written: set[tuple[str, ...]] = set()
        if path is not None:
            check_no_link(path)
        if path is not None and path.exists():
            for row in _read(path).to_dict("records"):
                if _is_of(row, fingerprint):
                    self._rows[_key(row)] = {name: row[name] for name in COLUMNS}
                    self._written.add(_key(row))

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return key in self._rows

    def forget(self, budgets: Sequence[str], methods: Sequence[str]) -> None:
        """Forget the rows of some methods at some budgets; they are computed and written anew."""
        for key in [key for key in self._rows if key[0] in budgets and key[1] in methods]:
            del self._rows[key]

    def add(self, row: Row) -> None:
        """Add a row, and write it where there is a file, in the place of one that it replaces."""
        key = _key(row)
        self._rows[key] = {name: row[name] for name in COLUMNS}
        if self._path is None:
            return
        if key in self._written:
            self._drop(self._path, key)
        fingerprint = f"{self._fingerprint}{SEAL}{_checksum(_as_read(row))}"
        line = pd.DataFrame([{**row, "fingerprint": fingerprint}], columns=list(STORED))
        is_new = not self._path.exists() or self._path.stat().st_size == 0
        try:
            with self._path.open("ab") as file:
                file.write(as_csv(line, header=is_new).encode())
        except OSError as error:
            raise unwritten(self._path, error) from error
        self._written.add(key)

    def _drop(self, path: Path, key: tuple[str, ...]) -> None:
        """Take rows of a key out of the file."""
        frame = _read(path)
        same = [
            _is_of(row, self._fingerprint) and _key(row) == key for row in frame.to_dict("records")
        ]
        with replacing(path) as partial:
            partial.write_bytes(as_csv(frame[[not is_same for is_same in same]]).encode())

    def frame(self) -> pd.DataFrame:
        """Return all rows."""
        return pd.DataFrame(list(self._rows.values()), columns=list(COLUMNS))


def _key(row: Mapping[Any, object]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in COLUMNS[:3])


def _is_of(row: Mapping[Any, Any], fingerprint: str) -> bool:
    return str(row["fingerprint"]).partition(SEAL)[0] == fingerprint


def _as_read(row: Mapping[str, object]) -> Mapping[Any, object]:
    """Return a row as it will be read again: of a number not every digit may be written."""
    frame = pd.DataFrame([row], columns=list(COLUMNS))
    return from_csv(as_csv(frame), TEXTS).to_dict("records")[0]


def _checksum(row: Mapping[Any, object]) -> str:
    values = [row[name] for name in COLUMNS]
    text = ",".join(str(float(v)) if isinstance(v, int | float) else str(v) for v in values)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _read(path: Path) -> pd.DataFrame:
    """Read the rows of a file, and cut off what a kill has left of its last line.

    Raises:
        ValueError: If the file is no comparison, or a row is not what was written; it is then
            left as it is.
    """
    content = read_text(path)
    header = ",".join(STORED).encode() + b"\n"
    if not (content.startswith(header) or header.startswith(content)):
        first = content.splitlines()[0][:80].decode(errors="replace")
        raise ValueError(
            f"{path} must be a comparison, a CSV with the columns {', '.join(STORED)}, got "
            f"{first!r} first; name another file, or move this one away."
        )
    lines = content[: content.rfind(b"\n") + 1]
    frame = _checked(lines, path) if lines else pd.DataFrame(columns=list(STORED))
    if lines != content:
        os.truncate(path, len(lines))
    return frame


def _checked(lines: bytes, path: Path) -> pd.DataFrame:
    """Return the rows of whole lines."""
    try:
        frame = from_csv(lines.decode(), TEXTS)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8, but byte {error.start} is not; name another file, or move this "
            "one away."
        ) from error
    for row in frame.to_dict("records"):
        _, is_sealed, checksum = str(row["fingerprint"]).partition(SEAL)
        if is_sealed and checksum != _checksum(row):
            raise ValueError(
                f"{path} must hold its rows as they were written, but that of "
                f"{short(', '.join(_key(row)))} was changed; delete the row, to have it computed."
            )
    return frame
