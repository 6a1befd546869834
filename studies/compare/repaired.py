"""Repair ours and every rival in its better form, at the harshest budgets.

Which norm and which rule for the ranks is a rival's better one is taken from the rows that
`python -m studies.compare` has written beside this file.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from studies.compare.apart import CALIBRATED, OURS, best_forms
from studies.compare.contest import budgets_of, contest, options, print_apart, write

SHARES = (0.1, 0.15, 0.25)


def main() -> None:
    """Repair what the file of repaired rows beside this one lacks, and print the table."""
    chosen = options("studies.compare.repaired", __doc__, SHARES)
    torch.set_num_threads(chosen.threads)
    budgets = budgets_of(chosen.resources, chosen.shares)
    sides = contest(chosen.data, chosen.path)
    print(f"{chosen.data}, dense accuracy {sides.score(sides.model):.4f}")
    rivals = best_forms(_rows(f"{chosen.data}.csv"), budgets)
    name = f"{chosen.data}-repaired.csv"
    for methods, own in (((OURS, CALIBRATED), budgets), *(((m,), b) for m, b in rivals.items())):
        rows = _rows(name)
        known = set(rows.loc[rows["method"].isin(methods), "budget"])
        missing = [budget for budget in own if str(budget) not in known]
        if not missing:
            continue
        asked = [method for method in methods if method in rivals]
        frame = sides.compare(missing, "repaired.csv", methods=asked, repair=True)
        frame = frame[frame["method"].isin(methods) & frame["budget"].isin(map(str, missing))]
        write(pd.concat([rows, frame], ignore_index=True), name)
    print_apart(_rows(name), "score_repaired", budgets)


def _rows(name: str) -> pd.DataFrame:
    """Return the rows of a file beside this one; none where it is not there."""
    path = Path(__file__).with_name(name)
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["budget", "method"])


if __name__ == "__main__":
    main()
