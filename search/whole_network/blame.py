"""Which structures keep a network from running, where the network is all that one can try."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from search.clock.times import TimedPoint
from search.clock.timetable import Timetable
from sekron.network.plan import Plan


def blamed(plan: Plan, runs: Callable[[Plan], bool]) -> list[str]:
    """Return the layers whose structures alone, or with those beside them, do not run.

    Both halves of what does not run are tried, and again the halves of those that do not.

    Args:
        plan: Whose network does not run.
        runs: Tries the network of a part of the plan.

    Returns:
        In order; nothing where both halves run.
    """
    names = list(plan)
    if len(names) == 1:
        return names
    middle = len(names) // 2
    halves = [_part(plan, names[:middle]), _part(plan, names[middle:])]
    return [name for half in halves if not runs(half) for name in blamed(half, runs)]


def without(
    plan: Plan, names: Iterable[str], timetable: Timetable, *, is_passing: bool
) -> Timetable:
    """Return a timetable in which the structures that a plan has in some layers do not run.

    Args:
        plan: Whose network does not run.
        names: Of the layers.
        timetable: Of the search.
        is_passing: Whether that is since memory is full.
    """
    for name in names:
        structure = plan[name]
        point = structure.family, structure.shapes
        refused = TimedPoint(plan.form(name)).with_time(
            structure.ranks, 3 * (math.inf,), is_passing=is_passing
        )
        timetable = timetable.with_point(timetable.layers[name].key, point, refused)
    return timetable


def _part(plan: Plan, names: list[str]) -> Plan:
    forms = {name: plan.form(name) for name in names}
    return Plan({name: plan[name] for name in names}, forms)
