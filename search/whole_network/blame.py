"""Which structures keep a network from running, where the network is all that one can try."""

from __future__ import annotations

from collections.abc import Callable

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


def _part(plan: Plan, names: list[str]) -> Plan:
    forms = {name: plan.form(name) for name in names}
    return Plan({name: plan[name] for name in names}, forms)
