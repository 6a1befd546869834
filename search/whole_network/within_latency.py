"""From an estimate of latency to a plan that holds it on the clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

import numpy as np

from search.clock.time_limit import NETWORKS
from search.clock.times import NetworkTime
from search.clock.timetable import Timetable
from search.front.choices import Choices, Member, slower_than_dense
from search.front.sweep import STEPS
from search.whole_network.plan_clock import PlanClock
from search.whole_network.tightening import next_share, tightened, tighter
from sekron.budget import Budget, InfeasibleBudget
from sekron.export.refusal import CannotRun
from sekron.network.plan import Plan

ROUNDS = 16
"""Plans measured for one budget, each under a tighter limit than the one that missed it."""

WORTHWHILE = 0.98
"""Share of a plan's error below which another one is worth a measurement."""

GAP = 0.01
"""Of the dense network's time, by which a plan that holds may stay below one that misses."""

TIMED_ROUNDS = 4
"""Plans before them whose layers are timed one by one, where they were only inferred."""


def hold_latency(choices: Choices, budget: Budget, clock: PlanClock) -> Member:
    """Return the plan with the least error whose network, measured, holds a budget.

    The integer program takes an estimate of the latency for the latency. So its plan is measured,
    and as long as it misses, the program is solved again under a tighter limit, with all that the
    clock has said by then. By how much it must be tightened is only known once a plan holds: from
    there the limit comes back, halfway to the plans that missed, as long as that allows for one
    with clearly less error, and there is time. A plan that the runtime does not take, and for none
    of its layers, has missed too. Where the time is up and none holds, the fastest is the last one.

    Args:
        choices: The candidates.
        budget: Without a least score.
        clock: Measures.

    Raises:
        InfeasibleBudget: If no plan holds the budget on the clock.
    """
    _time_layers_of_plans(choices, budget, clock)
    held: Member | None = None
    missed: list[Plan] = []
    share = 0.0
    for tried in range(ROUNDS):
        now = choices.retimed(clock.timetable)
        is_last = tried > 0 and held is None and budget.is_clocked and not clock.has_time
        if held is not None:
            member = _between(held, missed, now, budget, clock)
        else:
            member = _proposed(now, budget, share, missed, only_fastest=is_last)
        if member is None:
            break
        is_again = clock.timetable.of(member.plan) is not None
        excess = clock.excess(member, budget)
        if excess <= 0.0:
            held = member
        elif is_last and member.plan:  # the dense network is not raced
            break
        elif clock.time(member).runs:
            missed.append(member.plan)
            unexplained = clock.time(member).ratio - _predicted(member.plan, clock.timetable)
            share = next_share(share, excess, unexplained, is_again)
        elif member.plan in missed:
            share += GAP
        elif not clock.blame(member):
            missed.append(member.plan)
            share += GAP
    if held is not None:
        return held
    raise _none_held(budget, clock.timetable)


def _none_held(budget: Budget, timetable: Timetable) -> InfeasibleBudget:
    best = min((t.ratio for t in timetable.networks.values() if t.is_sure), default=1.0)
    return InfeasibleBudget(
        f"no plan held the budget on the clock, got {budget}; the fastest of which it is sure took "
        f"{best:.4f} of the dense network. Raise the budget, or `measure_seconds`, so that more "
        "structures are timed."
    )


def _time_layers_of_plans(choices: Choices, budget: Budget, clock: PlanClock) -> None:
    """Time the layers of the first plans, as long as some of them were not.

    Those whose FLOPs promise no time are only timed here: where parameters are limited, the plan
    for that limit alone may need them.
    """
    limits = [budget]
    if budget.params is not None and budget.is_clocked:
        limits.insert(0, replace(budget, latency=None, latency_ms=None, speedup=None))
    for limit in limits:
        for _ in range(TIMED_ROUNDS):
            member = _estimated(choices.retimed(clock.timetable), limit)
            if member is None or not clock.time_candidates(member):
                break


def _proposed(
    choices: Choices, budget: Budget, share: float, missed: Collection[Plan], *, only_fastest: bool
) -> Member | None:
    """Return the best plan by the estimate under a tighter limit, or else the fastest one.

    Raises:
        InfeasibleBudget: If no plan has the FLOPs and parameters of the budget.
    """
    try:
        best = None if only_fastest else _estimated(choices, tighter(budget, share, choices))
    except InfeasibleBudget:
        if share == 0.0:
            raise
        best = None
    return best or _fastest_of(choices, budget, missed)


def _between(
    held: Member, missed: Collection[Plan], choices: Choices, budget: Budget, clock: PlanClock
) -> Member | None:
    """Return a plan with clearly less error than one that holds a budget, None where there is none.

    By its prediction it is halfway between that one and the fastest of those that missed, or the
    limit, unless the clock has refuted the prediction there. Where nothing missed that is predicted
    to be slower, it is the best within the whole limit.
    """
    if clock.limit.left(NETWORKS) == 0.0:
        return None
    timetable = clock.timetable
    limit = (budget.limit_ms(timetable.network_ms) or math.inf) / timetable.network_ms
    held_at = _predicted(held.plan, timetable)
    missed_at = [at for at in (_predicted(plan, timetable) for plan in missed) if at > held_at]
    ends = [*missed_at, limit] if held_at < limit else missed_at
    for aim in _upwards(held_at, min(ends)) if missed_at else [limit]:
        share = 0.0 if aim == limit else limit - aim
        member = _estimated(choices, tightened(budget, share, timetable.network_ms))
        if member is None or member.plan in missed:
            continue
        if member.error < WORTHWHILE * held.error:
            return member
    return None


def _upwards(low: float, high: float) -> Iterable[float]:
    """Yield limits from one to another, each halfway from the last, but not the ends."""
    while high - low > GAP:
        low = (low + high) / 2
        yield low


def _predicted(plan: Plan, timetable: Timetable) -> float:
    """Return what a measured plan was to take by its layers, as a share of the dense network."""
    measured = timetable.of(plan)
    assert measured is not None
    return timetable.effect().ratio(measured.saved, len(plan))


def not_slower(
    choices: Choices, budget: Budget, clock: PlanClock, warn: Callable[[str], None]
) -> Member:
    """Return the plan that holds a budget; if it is slower than dense, the best that is not.

    Under a budget of parameters it may be. Fewer FLOPs that take longer are what nobody wants.

    Args:
        choices: The candidates.
        budget: Without a least score.
        clock: Measures.
        warn: Called where the plan has slower layers, and where every plan is slower.
    """
    member = hold_latency(choices, budget, clock)
    if not budget.is_clocked and choices.retimed(clock.timetable).allocate(budget).is_slower:
        warn(slower_than_dense(budget))
    ratio = clock.time(member).ratio
    if not _is_too_slow(member.plan, budget, clock.time(member)):
        return member
    if not clock.has_time:
        warn(
            f"the plan for {budget} takes {ratio:.4f} of the dense network's time, and there was "
            "no time to look for one that is not slower; raise `measure_seconds`."
        )
        return member
    try:
        return hold_latency(choices, replace(budget, latency=1.0), clock)
    except (InfeasibleBudget, CannotRun):
        warn(
            f"{budget} is out of reach for networks that are not slower than the dense one; the "
            f"plan takes {ratio:.4f} of its time."
        )
        return member


def tell_slower(plan: Plan, budget: Budget, clock: PlanClock, warn: Callable[[str], None]) -> None:
    """Warn of a plan of an earlier search that is slower than the dense network."""
    measured = clock.timetable.of(plan)
    if measured is not None and _is_too_slow(plan, budget, measured):
        warn(f"the plan for {budget} takes {measured.ratio:.4f} of the dense network's time.")


def _is_too_slow(plan: Plan, budget: Budget, measured: NetworkTime) -> bool:
    """Whether a plan is surely slower than the dense network, and was not asked to be small."""
    is_asked = budget.is_clocked or budget.params is not None
    return bool(plan) and not is_asked and measured.is_sure and measured.ratio > 1.0


def _estimated(choices: Choices, budget: Budget) -> Member | None:
    """Return the best plan within a budget by the estimate, if there is one."""
    if not budget.is_clocked:
        return choices.member(choices.allocate(budget).choice)
    solution = choices.solve(budget, choices.available(budget))
    return None if solution is None else choices.member(solution.choice)


def _fastest_of(choices: Choices, budget: Budget, missed: Collection[Plan]) -> Member | None:
    """Return the plan that takes least, by the estimate or by the layers alone.

    Where by the estimate nothing holds, what it takes tells whether that is so.

    Args:
        choices: With a timetable.
        budget: Whose other limits must hold.
        missed: Plans that are not to be returned; None if they are all that there is.
    """
    assert choices.timetable is not None
    alone = choices.retimed(replace(choices.timetable, networks={}))
    fastest = (_fastest(known, budget) for known in (choices, alone))
    return next((member for member in fastest if member.plan not in missed), None)


def _fastest(choices: Choices, budget: Budget) -> Member:
    """Return the plan that takes least by the estimate, within the limits of all else."""
    layers = choices.layers.values()
    least, most = (
        sum(float(pick(layer.network_ms)) for layer in layers) for pick in (np.nanmin, np.nanmax)
    )
    available = choices.available(budget)
    for limit in np.linspace(least, most, STEPS):
        solution = choices.solve(budget, available | {"network_ms": max(float(limit), least)})
        if solution is not None:
            return choices.member(solution.choice)
    raise InfeasibleBudget(
        f"the budget must be reachable, got {budget}; of the structures that were timed "
        "none meet its other limits. Raise them, or `measure_seconds`."
    )
