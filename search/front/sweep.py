"""The front: exact optima for a sweep over every resource, and what no other of them beats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np

from search.folder.scores import Scores
from search.front.choices import Choice, Choices, Member
from sekron.budget import RESOURCES, Budget
from sekron.network.plan import Plan

STEPS = 24
"""Budgets per resource."""


def front_members(
    choices: Choices,
    best: Plan,
    scores: Scores | None,
    has_time: Callable[[], bool] = lambda: True,
) -> list[Member]:
    """Return the undominated plans, by FLOPs.

    Each is optimal for one budget of FLOPs, of parameters or, where layers were timed, of their
    time, or was scored. The plan for the budget of the search is among them in any case: what
    beats it by prediction may not have held the budget on the clock.

    Args:
        choices: Of the search.
        best: The plan for its budget.
        scores: Of networks, or None.
        has_time: Whether to go on; asked after every plan. What was found by then is returned.
    """
    # The best plan is run as it was chosen, perhaps in other forms than its layers like alone.
    members: dict[Choice, Member] = {choices.choice(best): choices.as_it_is(best)}
    for choice in _swept(choices, scores):
        if choice not in members:
            members[choice] = choices.member(choice)
        if not has_time():
            break
    of_plans = Scores(np.nan) if scores is None else scores
    # In forms other than those of its layers, what the best plan saves is not known from them.
    saved = [choices.member(c).saved if np.isnan(m.saved) else m.saved for c, m in members.items()]
    values = np.array(
        [
            (m.error, *m.used.values(), -of_layers, -of_plans.of(m.plan))
            for m, of_layers in zip(members.values(), saved, strict=True)
        ]
    )
    values[np.isnan(values)] = np.inf  # a time or a score that is not known beats nothing
    beaten = [
        bool(((values <= row).all(axis=1) & (values < row).any(axis=1)).any()) for row in values
    ]
    beaten[0] = False  # the best plan
    front = [member for member, lost in zip(members.values(), beaten, strict=True) if not lost]
    return sorted(front, key=lambda member: tuple(member.used.values()))


def _swept(choices: Choices, scores: Scores | None) -> Iterator[Choice]:
    for resource in RESOURCES:
        dense = choices.profile.dense(resource)
        least = max(round(choices.least(resource) * dense), 1)
        for limit in np.geomspace(least, dense, STEPS):
            budget = Budget(**{resource: max(int(limit), least)})
            solution = choices.solve(budget, dict(choices.profile.available(budget)))
            if solution is not None:  # else all that would fit was measured slower than dense
                yield solution.choice
    for plan in () if scores is None else scores.plans:
        with suppress(ValueError):  # scored when there were other candidates
            yield choices.choice(plan)
    if choices.timetable is not None:
        # Of the layers' own time, so that the plans do not move when networks are measured.
        most = choices.timetable.searched_ms
        least_ms = sum(float(np.nanmin(layer.ms)) for layer in choices.layers.values())
        for limit in np.geomspace(least_ms, most, STEPS):
            solution = choices.solve(Budget(latency=1.0), {"ms": max(float(limit), least_ms)})
            if solution is not None:
                yield solution.choice
