"""The tables that tell structures and metric apart."""

import numpy as np
import pandas as pd
import pytest

from search import Budget
from studies.compare.apart import best_forms, told_apart

BUDGETS = [Budget(flops=0.1), Budget(params=0.1)]
SCORES = {
    ("sekron", "exact"): (0.5, 0.4),
    ("sekron calibrated", "plan"): (0.7, 0.6),
    ("cp", "exact"): (0.3, 0.2),
    ("cp", "minimax"): (0.4, 0.1),
    ("cp in metric", "exact"): (0.35, 0.3),
    ("gkpd", "exact"): (np.nan, 0.2),
    ("gkpd in metric", "exact"): (np.nan, 0.1),
    ("activation_svd", "lagrangian"): (0.2, 0.2),
    ("pruning", "magnitude"): (0.1, 0.1),
}


@pytest.fixture
def frame():
    rows = [
        (str(budget), method, rule, score)
        for (method, rule), scores in SCORES.items()
        for budget, score in zip(BUDGETS, scores, strict=True)
    ]
    return pd.DataFrame(rows, columns=["budget", "method", "ranks_by", "score_recalibrated"])


def test_structures_and_norms_are_told_apart_each_at_its_best_rule(frame):
    table = told_apart(frame, "score_recalibrated", BUDGETS)
    assert list(table.columns) == [str(budget) for budget in BUDGETS]
    assert list(table.index)[:2] == [("sekron", "plain"), ("sekron", "in metric")]
    assert table.loc[("sekron", "in metric")].tolist() == [0.7, 0.6]
    assert table.loc[("cp", "plain")].tolist() == [0.4, 0.2]
    assert table.loc[("cp", "in metric")].tolist() == [0.35, 0.3]
    assert table.loc[("activation_svd", "its own")].tolist() == [0.2, 0.2]
    assert len(table) == 8


def test_a_rival_is_repaired_in_the_norm_that_scored_best_where_it_reached_the_budget(frame):
    assert best_forms(frame, BUDGETS) == {
        "activation_svd": BUDGETS,
        "cp": BUDGETS[:1],
        "cp in metric": BUDGETS[1:],
        "gkpd": BUDGETS[1:],
    }
    assert best_forms(frame, []) == {}
