"""What the structures give and what the metric gives, told apart, before and after repair."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from baselines.entrants import ACTIVATION_SVD, IN_METRIC, PRUNING
from search import Budget

OURS, CALIBRATED = "sekron", "sekron calibrated"
"""The search by the plain error, and by the metric of unlabelled images."""

PLAIN, METRIC, OWN = "plain", "in metric", "its own"
"""In what a weight is decomposed: the plain norm, our metric, the activation SVD's whitening."""


def told_apart(frame: pd.DataFrame, column: str, budgets: Sequence[Budget]) -> pd.DataFrame:
    """Return a table of the best of all rules: a row per structure and norm, a column per budget.

    Args:
        frame: Rows of a comparison.
        column: A score.
        budgets: The columns, in their order.
    """
    split = _split(frame)
    table = split.pivot_table(
        index=["structures", "norm"], columns="budget", values=column, aggfunc="max"
    )
    names = dict.fromkeys([OURS, *split["structures"]])
    rows = [(name, norm) for name in names for norm in (PLAIN, METRIC, OWN)]
    return table.reindex(
        index=[row for row in rows if row in table.index],
        columns=[str(budget) for budget in budgets],
    )


def best_forms(frame: pd.DataFrame, budgets: Sequence[Budget]) -> dict[str, list[Budget]]:
    """Return the method names to repair, each with the budgets at which it is to be repaired.

    Of every rival that is the norm in which its score with batch norm re-estimated is the highest.

    Args:
        frame: Rows of a comparison.
        budgets: Those at which to repair.
    """
    rivals = frame[~frame["method"].isin([OURS, CALIBRATED, PRUNING])]
    split = _split(rivals).dropna(subset="score_recalibrated")
    best = split.groupby(["budget", "structures"])["score_recalibrated"].idxmax()
    chosen: dict[str, list[Budget]] = {}
    for budget in budgets:
        for name in split.loc[best[str(budget)], "method"] if str(budget) in best else ():
            chosen.setdefault(name, []).append(budget)
    return chosen


def _split(frame: pd.DataFrame) -> pd.DataFrame:
    """Split the names of methods into structures and the norm that they are decomposed in."""
    names = frame["method"].replace(CALIBRATED, OURS + IN_METRIC)
    norms = names.str.endswith(IN_METRIC).map({True: METRIC, False: PLAIN})
    return frame.assign(
        structures=names.str.removesuffix(IN_METRIC),
        norm=norms.mask(names == ACTIVATION_SVD, OWN),
    )
