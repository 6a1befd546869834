"""From an estimate of latency to a plan that holds it on the clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from search.clock.time_limit import NETWORKS
from search.clock.times import NetworkTime
from search.front.choices import Choices, Member, slower_than_dense
from search.front.sweep import STEPS
from search.whole_network.plan_clock import PlanClock
from sekron.budget import Budget, InfeasibleBudget
from sekron.network.plan import Plan

ROUNDS = 16
"""Plans measured for one budget, each under a tighter limit than the one that missed it."""

WORTHWHILE = 0.98
"""Share of a plan's error below which another one is worth a measurement."""

TIMED_ROUNDS = 4
"""Plans before them whose layers are timed one by one, where they were only inferred."""


def hold_latency(choices: Choices, budget: Budget, clock: PlanClock) -> Member:
    """Return the plan with the least error whose network, measured, holds a budget.

    The integer program takes an estimate of the latency for the latency. So its plan is measured,
    and as long as it misses, the program is solved again under a tighter limit, with all that the
    clock has said by then. Of one that holds, what its network has saved more than its layers
    promised is known too: as long as that allows for a plan with clearly less error, and there is
    time, that one is tried.

    Args:
        choices: The candidates.
        budget: Without a least score.
        clock: Measures.

    Raises:
        InfeasibleBudget: If no plan holds the budget on the clock.
        CannotRun: If the runtime does not take a plan, and it is not for one of its layers.
    """
    _time_layers_of_plans(choices, budget, clock)
    held: Member | None = None
    fastest: Member | None = None
    share = 0.0
    for _ in range(ROUNDS):
        now = choices.retimed(clock.timetable)
        member = _estimated(now, tightened(budget, share, clock.timetable.network_ms))
        if held is not None and not _is_worth_trying(member, held, clock):
            return held
        if member is None:
            if fastest is not None:
                break
            # By the estimate nothing holds; what the fastest plan takes tells whether that is so.
            member = fastest = _fastest(now, budget)
        is_again = clock.timetable.of(member.plan) is not None
        missed = clock.excess(member, budget)
        if missed <= 0.0 and member is not fastest:
            held = member
            continue
        if not clock.time(member).runs:
            clock.blame(member)
            fastest = None
            continue
        effect, measured = clock.timetable.effect(), clock.time(member).ratio
        predicted = effect.ratio(member.saved, len(member.plan))
        share = next_share(share, missed, measured - predicted, is_again)
    if held is not None:
        return held
    if fastest is not None and clock.excess(fastest, budget) <= 0.0:
        return fastest
    best = min((t.ratio for t in clock.timetable.networks.values() if t.is_sure), default=1.0)
    raise InfeasibleBudget(
        f"no plan held the budget on the clock, got {budget}; the fastest of which it is sure took "
        f"{best:.4f} of the dense network. Raise the budget, or `measure_seconds`, so that more "
        "structures are timed."
    )


def _time_layers_of_plans(choices: Choices, budget: Budget, clock: PlanClock) -> None:
    """Time the layers of the first plans, as long as some of them were only inferred."""
    for _ in range(TIMED_ROUNDS):
        member = _estimated(choices.retimed(clock.timetable), budget)
        if member is None or not clock.time_candidates(member):
            break


def _is_worth_trying(member: Member | None, held: Member, clock: PlanClock) -> bool:
    """Whether a plan is clearly better than one that holds the budget, and can be measured."""
    is_better = member is not None and member.error < WORTHWHILE * held.error
    return is_better and clock.limit.left(NETWORKS) > 0.0


def next_share(share: float, missed: float, unexplained: float, is_again: bool) -> float:
    """Return by how much the limit of the next plan is tightened, after one has missed it.

    By what the estimate did not foresee of the plan that was measured; where the program has
    proposed a plan that had been measured already, at least by what it misses more than before:

        share ← max(share + [again] · max(missed, 0), measured − predicted)

    Args:
        share: That the last limit was tightened by, of the dense network's time.
        missed: Share of the limit by which the plan exceeds it.
        unexplained: Measured less predicted time, as a share of the dense network's.
        is_again: Whether the plan had been measured before.
    """
    return max(share + max(missed, 0.0) * is_again, unexplained)


def tightened(budget: Budget, share: float, network_ms: float) -> Budget:
    """Take a share of the dense network's time from a budget of latency; others stay.

    Args:
        budget: Perhaps without a limit of latency.
        share: Of the dense network's time, at least 0.
        network_ms: The dense network's time.
    """
    limit = budget.limit_ms(network_ms)
    if limit is None or share == 0.0:
        return budget
    left = max(limit - share * network_ms, 1e-6 * network_ms)
    return replace(budget, latency=None, latency_ms=left, speedup=None)


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
    except InfeasibleBudget:
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
