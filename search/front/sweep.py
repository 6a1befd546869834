"""The front: exact optima for a sweep over every resource, and what no other of them beats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from search.folder.scores import Scores
from search.front.frames import Member
from sekron.budget import RESOURCES, Budget
from sekron.network.plan import Plan

if TYPE_CHECKING:
    from search.front.result import SearchResult

STEPS = 24
"""Budgets per resource."""


def members(result: SearchResult) -> list[Member]:
    """Return the undominated plans, by FLOPs.

    Each is optimal for one budget of FLOPs, of parameters or, where layers were timed, of their
    time, or was scored; the plan for the budget of the search is among them.
    """
    found: dict[tuple[int, ...], Member] = {}
    for choice in _choices(result):
        if choice not in found:
            found[choice] = result.member(choice)
    scores = Scores(np.nan) if result.scores is None else result.scores
    values = np.array(
        [(m.error, *m.used.values(), -m.saved, -scores.of(m.plan)) for m in found.values()]
    )
    values[np.isnan(values)] = np.inf  # a time or a score that is not known beats nothing
    beaten = [
        bool(((values <= row).all(axis=1) & (values < row).any(axis=1)).any()) for row in values
    ]
    kept = [member for member, lost in zip(found.values(), beaten, strict=True) if not lost]
    return sorted(kept, key=lambda member: tuple(member.used.values()))


def _choices(result: SearchResult) -> Iterator[tuple[int, ...]]:
    yield result.choice(result.best)
    for resource in RESOURCES:
        dense = result.profile.dense(resource)
        least = max(round(result.least(resource) * dense), 1)
        for limit in np.geomspace(least, dense, STEPS):
            budget = Budget(**{resource: max(int(limit), least)})
            allocation = result.solve(budget, dict(result.profile.available(budget)))
            if allocation is not None:  # else all that would fit was measured slower than dense
                yield allocation.choice
    for text in () if result.scores is None else result.scores.networks:
        with suppress(ValueError):  # scored when there were other candidates
            yield result.choice(Plan.from_json(text))
    if result.timetable is not None:
        # Of the layers' own time, so that the plans do not move when networks are measured.
        most = result.timetable.searched_ms
        least_ms = sum(float(np.nanmin(option.ms)) for option in result.options.values())
        for limit in np.geomspace(least_ms, most, STEPS):
            allocation = result.solve(Budget(latency=1.0), {"ms": max(float(limit), least_ms)})
            if allocation is not None:
                yield allocation.choice
