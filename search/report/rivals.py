"""The comparison that a run folder may hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sekron.spreadsheet import from_csv

COMPARISON = "comparison.csv"
TEXTS = ("budget", "method", "ranks_by")
NUMBERS = (
    *("error", "error_in_metric", "flops", "flops_ratio", "params", "params_ratio"),
    *("latency_ms", "speedup", "score", "score_recalibrated", "score_repaired", "seconds"),
)


def read_rivals(run: str | Path) -> pd.DataFrame | None:
    """Return what `baselines.compare` wrote to a run folder, None where it did not.

    Raises:
        ValueError: If the file is damaged.
    """
    path = Path(run) / COMPARISON
    if not path.is_file():
        return None
    try:
        frame = from_csv(path.read_text(encoding="utf-8"), dict.fromkeys(TEXTS, str))
        frame = frame[[*TEXTS, *NUMBERS]]
        for name in NUMBERS:
            frame[name] = frame[name].astype(float)
    except (ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a comparison, but is damaged ({said}); delete it and compare again."
        ) from error
    return frame.fillna(dict.fromkeys(TEXTS, ""))
