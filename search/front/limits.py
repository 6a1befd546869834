"""What a budget limits in a front, and which of its plans are within that."""

from __future__ import annotations

import pandas as pd

from search.clock.times import is_wide
from search.folder.scores import Scores
from search.front.choices import Choices
from sekron.budget import RESOURCES, Budget, must_be_budget


def limits_of(budget: Budget, choices: Choices) -> dict[str, float]:
    """Return column of the front -> absolute limit, of those that a budget has."""
    limits: dict[str, float | None] = {
        name: budget.limit(name, choices.profile.dense(name)) for name in RESOURCES
    }
    if choices.timetable is not None:
        limits["latency_ms"] = budget.limit_ms(choices.timetable.network_ms)
    limits["score"] = budget.min_score
    return {name: limit for name, limit in limits.items() if limit is not None}


def is_within(
    front: pd.DataFrame, budget: Budget, choices: Choices, scores: Scores | None
) -> pd.Series[bool]:
    """Return which rows of a front a budget admits; what is not known is not within a limit.

    Raises:
        ValueError: If the budget limits what was neither measured nor scored.
        TypeError: If the budget is none.
    """
    must_be_budget(budget)
    if budget.min_score is not None and scores is None:
        raise ValueError(f"a least score needs scores, got {budget}, but this search has none.")
    if budget.is_clocked:
        choices.measured_for(budget)
    limits = limits_of(budget, choices)
    least = limits.pop("score", None)
    within = pd.Series(True, front.index) if least is None else front["score"] >= least
    for name, most in limits.items():
        within &= (front[name] if name in RESOURCES else _slow_end(front)) <= most
    return within


def _slow_end(front: pd.DataFrame) -> pd.Series[float]:
    """Return the measured times; where one is not sure, the slow end of its interval."""
    time, high = front["latency_ms"], front["latency_high_ms"]
    return time.mask(is_wide(front["latency_low_ms"], time, high), high)
