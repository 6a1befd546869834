"""The comparisons that a run folder may hold: one for each clock."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from baselines.rows import SEAL
from search.clock.race import EAGER
from sekron.spreadsheet import from_csv

TEXTS = ("budget", "method", "ranks_by")
NUMBERS = (
    *("error", "error_in_metric", "flops", "flops_ratio", "params", "params_ratio"),
    *("latency_ms", "speedup", "score", "score_recalibrated", "score_repaired", "seconds"),
)


def comparison_of(run: str | Path, runtime: str) -> Path:
    """Return the file of a run folder for rivals that are timed in a runtime, if at all."""
    return Path(run) / ("comparison.csv" if runtime == EAGER else f"comparison-{runtime}.csv")


def read_rivals(run: str | Path, runtime: str = EAGER) -> pd.DataFrame | None:
    """Return what `sekron compare` compared last in a run folder, None where it did not.

    Args:
        run: The folder.
        runtime: Whose clock timed the rivals.

    Raises:
        ValueError: If the file is damaged.
    """
    path = comparison_of(run, runtime)
    if not path.is_file():
        return None
    try:
        frame = from_csv(path.read_text(encoding="utf-8"), TEXTS)
        frame = _compared_last(frame)[[*TEXTS, *NUMBERS]]
        frame = frame.drop_duplicates(list(TEXTS), keep="last")
        for name in NUMBERS:
            frame[name] = frame[name].astype(float)
    except (ValueError, KeyError) as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"{path} must be a comparison, but is damaged ({said}); delete it and compare again."
        ) from error
    return frame.fillna(dict.fromkeys(TEXTS, ""))


def _compared_last(frame: pd.DataFrame) -> pd.DataFrame:
    """Return for each budget the rows of its last comparison.

    That has written the last row: the search's own plan is measured anew each time, whatever is
    taken of the rivals from an earlier comparison in the same setting.
    """
    of = frame["fingerprint"].astype(str).str.partition(SEAL)[0]
    return frame[of == of.groupby(frame["budget"]).transform("last")]
