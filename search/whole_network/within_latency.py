"""From an estimate of latency to a plan that holds it on the clock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from search.clock.stopwatch import Stopwatch
from search.clock.timetable import Timetable
from search.front.frames import Member
from search.front.result import SearchResult
from search.front.sweep import STEPS
from search.whole_network.nearby import NetworkStudy
from search.whole_network.trials import Trials
from sekron.budget import Budget, InfeasibleBudget

ROUNDS = 16
"""Plans measured for one budget, each under a tighter limit than the one that missed it."""

TIMED_ROUNDS = 4
"""Plans before them whose layers are timed one by one, where they were only inferred."""


def settle(
    result: SearchResult,
    stopwatch: Stopwatch,
    seconds: float,
    trials: Trials,
    save: Callable[[Timetable], None],
    on_progress: Callable[[str], None],
) -> SearchResult:
    """Time the layers, then plans as whole networks until one holds the budget, then the front.

    Args:
        result: With a timetable, filled further in place.
        stopwatch: Of the network.
        seconds: For the layers, and as much again for whole networks; the plan for the budget
            itself is always measured.
        trials: Of whole networks, where latency is limited.
        save: Called with the timetable after every part.
        on_progress: Called with what is being measured.

    Returns:
        The result with the plan that holds the budget.

    Raises:
        InfeasibleBudget: If no plan holds the budget on the clock.
    """
    timetable = result.timetable
    assert timetable is not None
    if result.key not in timetable.winners:
        stopwatch.time_layers(timetable, result.tables, seconds, on_progress)
        save(timetable)
        end = time.perf_counter() + seconds
        on_progress("the plan for the budget")
        winner = _not_slower(result, stopwatch, timetable)
        if result.budget.is_clocked:
            on_progress("plans near it")
            winner = _nearby(replace(result), stopwatch, winner, trials, end)
        timetable.winners[result.key] = winner.plan.to_json()
        save(timetable)
    end = time.perf_counter() + seconds
    result = replace(result)  # what was inferred from the timetable before is forgotten
    unknown = [m for m in result.members if m.plan.to_json() not in timetable.networks]
    unknown.sort(key=lambda member: _distance(result, member))
    for done, member in enumerate(unknown):
        left = end - time.perf_counter()
        if left < 0:
            break
        on_progress(f"the front, plan {done + 1} of {len(unknown)}")
        # All of them a little, rather than the first ones exactly.
        stopwatch.time_network(timetable, member.plan, member.saved, left / (len(unknown) - done))
    save(timetable)
    return result


def admission(result: SearchResult, stopwatch: Stopwatch | None) -> Callable[[Member], bool]:
    """Return what says whether a plan holds the budget on the clock, by measuring it.

    Where only FLOPs are limited, it must not be slower than the dense network, or than the best
    plan by error if that one is slower already.
    """
    timetable, budget = result.timetable, result.budget
    if timetable is None or stopwatch is None:
        return lambda _: True
    held = timetable.networks.get(result.best.to_json()) if budget.min_score is None else None
    slowest = max(1.0, held.ratio if held is not None else 1.0)

    def admits(member: Member) -> bool:
        if not member.plan and not budget.is_clocked:
            return True
        excess = _measured_excess(stopwatch, timetable, budget, member)
        if budget.is_clocked or budget.params is not None:
            return excess <= 0.0
        return timetable.networks[member.plan.to_json()].ratio <= slowest

    return admits


def _nearby(
    result: SearchResult, stopwatch: Stopwatch, winner: Member, trials: Trials, end: float
) -> Member:
    timetable = result.timetable
    assert timetable is not None

    def excess(member: Member) -> float:
        return _measured_excess(stopwatch, timetable, result.budget, member)

    study = NetworkStudy(result, winner, excess, trials.storage, trials.name, trials.seed)
    return study.run(trials.number, end)


def _not_slower(result: SearchResult, stopwatch: Stopwatch, timetable: Timetable) -> Member:
    """Return the best plan; if it is slower than the dense network, the best that is not.

    Under a budget of parameters it may be. Fewer FLOPs that take longer are what nobody wants.
    """
    winner, budget = _winner(result, stopwatch, timetable), result.budget
    ratio = timetable.networks[winner.plan.to_json()].ratio
    if budget.is_clocked or budget.params is not None or ratio <= 1.0 or not winner.plan:
        return winner
    try:
        as_fast = replace(result, budget=replace(budget, latency=1.0))
        return _winner(as_fast, stopwatch, timetable)
    except InfeasibleBudget:
        warnings.warn(
            f"{budget} is out of reach for networks that are not slower than the dense one; the "
            f"plan takes {ratio:.4f} of its time.",
            stacklevel=4,
        )
        return winner


def _winner(result: SearchResult, stopwatch: Stopwatch, timetable: Timetable) -> Member:
    budget = result.budget
    member: Member | None
    for _ in range(TIMED_ROUNDS):
        # What was inferred from the timetable before is forgotten by the copy.
        result = replace(result)
        member = _within(result, budget)
        if member is None or not stopwatch.time_plan(timetable, member.plan):
            break
    fastest: Member | None = None
    tighter = 0.0  # share of the dense network's time by which such plans miss the estimate
    for _ in range(ROUNDS):
        result = replace(result)
        member = _within(result, _tightened(timetable, budget, tighter))
        if member is None:
            if fastest is not None:
                break
            # By the estimate nothing holds; what the fastest plan takes tells whether that is so.
            member = fastest = _fastest(result)
        is_known = member.plan.to_json() in timetable.networks
        missed = _measured_excess(stopwatch, timetable, budget, member)
        if missed <= 0.0 and member is not fastest:
            return member
        ratio = timetable.networks[member.plan.to_json()].ratio
        unexplained = ratio - timetable.effect().ratio(member.saved, len(member.plan))
        tighter = max(tighter + max(missed, 0.0) * is_known, unexplained)
    if fastest is not None and _excess(timetable, budget, fastest) <= 0.0:
        return fastest
    best = min((time.ratio for time in timetable.networks.values()), default=1.0)
    raise InfeasibleBudget(
        f"no plan held the budget on the clock, got {budget}; the fastest that was measured took "
        f"{best:.4f} of the dense network. Raise the budget, or `measure_seconds`, so that more "
        "structures are timed."
    )


def _tightened(timetable: Timetable, budget: Budget, share: float) -> Budget:
    """Take a share of the dense network's time from a budget of latency."""
    limit = budget.limit_ms(timetable.network_ms)
    if limit is None or share == 0.0:
        return budget
    left = max(limit / timetable.network_ms - share, 1e-6)
    return replace(budget, latency=left, latency_ms=None, speedup=None)


def _within(result: SearchResult, budget: Budget) -> Member | None:
    """Return the best plan within a budget by the estimate, if there is one."""
    if not budget.is_clocked:
        return result.member(result.allocate(budget).choice)
    found = result.solve(budget, result.available(budget))
    return None if found is None else result.member(found.choice)


def _fastest(result: SearchResult) -> Member:
    """Return the plan that takes least by the estimate, within the limits of all else."""
    layers = result.options.values()
    least, most = (
        sum(float(pick(layer.network_ms)) for layer in layers) for pick in (np.nanmin, np.nanmax)
    )
    available = result.available(result.budget)
    for limit in np.linspace(least, most, STEPS):
        found = result.solve(result.budget, available | {"network_ms": max(float(limit), least)})
        if found is not None:
            return result.member(found.choice)
    raise InfeasibleBudget(
        f"the budget must be reachable, got {result.budget}; of the structures that were timed "
        "none meet its other limits. Raise them, or `measure_seconds`."
    )


def _measured_excess(
    stopwatch: Stopwatch, timetable: Timetable, budget: Budget, member: Member
) -> float:
    """Time a plan, once more if it seems to hold the latency; return by how much it exceeds it."""
    is_new = member.plan.to_json() not in timetable.networks
    stopwatch.time_network(timetable, member.plan, member.saved)
    excess = _excess(timetable, budget, member)
    if is_new and excess <= 0.0 and budget.is_clocked:
        stopwatch.confirm(timetable, member.plan)
        excess = _excess(timetable, budget, member)
    return excess


def _excess(timetable: Timetable, budget: Budget, member: Member) -> float:
    """By how much a measured plan exceeds the latency, as a share of it."""
    limit = budget.limit_ms(timetable.network_ms)
    if limit is None:
        return 0.0
    return timetable.networks[member.plan.to_json()].ratio * timetable.network_ms / limit - 1.0


def _distance(result: SearchResult, member: Member) -> float:
    """How far a plan's FLOPs are from those of the plan for the budget."""
    return abs(member.used["flops"] - result.profile.totals(result.best)["flops"])
