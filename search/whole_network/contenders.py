"""Plans that the program of a clock does not propose, raced against the one that it found."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from search.clock.time_limit import NETWORKS
from search.clock.timetable import Timetable
from search.front.beside import winner_on_clock
from search.front.choices import Choices, Member
from search.whole_network.plan_clock import PlanClock
from sekron.budget import Budget
from sekron.network.plan import Plan

SAME = 1e-9
"""Relative difference up to which two errors are one."""


def best_of(
    winner: Member | None,
    choices: Choices,
    budget: Budget,
    clock: PlanClock,
    beside: Collection[Timetable],
) -> Member | None:
    """Return the best of a plan and of those that other clocks, or other forms, suggest.

    A layer is run in the form that is fastest where it is timed alone, but a runtime that sees its
    neighbours may like another one better. So the structures of the plan are raced in their plain
    forms too, and in those that other runtimes of the run folder liked best. Where latency is
    limited, so are the plans that these runtimes have for the same budget, and that of an earlier
    search: in its own seconds a search times some structures only, and another one may have come
    upon better ones.

    Args:
        winner: The plan that was found, measured; None if none was.
        choices: The candidates, with the times of the clock.
        budget: That plans must hold, without a least score.
        clock: Measures, as long as there is time.
        beside: The timetables of the other runtimes.
    """
    there = [choices.retimed(timetable) for timetable in beside]
    if budget.is_clocked:
        here = choices.retimed(clock.timetable)
        for plan in filter(None, (winner_on_clock(known, budget) for known in (here, *there))):
            winner = _better(plan, winner, choices, budget, clock)
    if winner is not None:
        for plan in _in_other_forms(winner.plan, [choices.retimed(None), *there]):
            winner = _better(plan, winner, choices, budget, clock)
    return winner


def _in_other_forms(plan: Plan, there: Collection[Choices]) -> Iterable[Plan]:
    """Return a plan in the forms that other clocks like best, or that are plain without one."""
    variants = [other.plan(other.choice(plan)) for other in there]
    return {variant.digest: variant for variant in variants if variant != plan}.values()


def _better(
    plan: Plan, winner: Member | None, choices: Choices, budget: Budget, clock: PlanClock
) -> Member | None:
    """Return the member of a plan if it holds the budget and is better, else the winner.

    Better is a smaller error, or at the same error a time that is surely less.
    """
    member = choices.as_it_is(plan)
    if choices.excess(member, budget) > 0.0:
        return winner
    if winner is not None and member.error > (1.0 + SAME) * winner.error:
        return winner
    is_new = clock.timetable.of(plan) is None
    if winner is not None and is_new and clock.limit.left(NETWORKS) == 0.0:
        clock.leave_out("plans in other forms", "some")
        return winner
    if clock.excess(member, budget) > 0.0:
        return winner
    if winner is None or member.error < (1.0 - SAME) * winner.error:
        return member
    is_faster = clock.time(member).high < clock.time(winner).low
    return member if is_faster else winner
