"""From an estimate of latency to a plan that holds it on the clock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from search.budget import Budget, InfeasibleBudget
from search.folder import RunFolder
from search.frames import Member
from search.profiling import Inputs, NetworkProfile
from search.result import SearchResult
from search.timetable import Timetable
from search.timing import Stopwatch
from sekron.plan import Plan

ROUNDS = 8
"""Plans measured for one budget, each under a tighter limit than the one that missed it."""

TIMED_ROUNDS = 4
"""Plans before them whose layers are timed one by one, where they were only inferred."""


@dataclass(frozen=True, slots=True)
class Clock:
    """How a search is measured.

    Args:
        seconds: Limit of the time for layers, and again for whole networks; 0 for not at all.
        keep: Whether to use recorded latencies of another setting.
    """

    seconds: float
    keep: bool

    def begin(
        self,
        model: nn.Module,
        example_input: Inputs,
        measured: NetworkProfile,
        folder: RunFolder | None,
    ) -> tuple[Stopwatch | None, Timetable | None]:
        """Return what measures, and what was recorded or a fresh timetable."""
        if self.seconds == 0:
            return None, None
        stopwatch = Stopwatch(model, example_input, measured)
        recorded = None if folder is None else folder.timetable()
        if recorded is not None:
            difference = recorded.setting.difference(stopwatch.setting())
            if not difference or self.keep:
                return stopwatch, recorded
            warnings.warn(
                f"the latencies in {folder and folder.path} were measured in another setting "
                f"({difference}); they are measured anew.",
                stacklevel=4,
            )
        return stopwatch, stopwatch.start()


def check_latency(budget: Budget, timetable: Timetable, profile: NetworkProfile) -> None:
    """Refuse a latency below what the layers take that are not searched.

    Raises:
        InfeasibleBudget: With the least that is reachable, were the searched layers free.
    """
    limit = budget.limit_ms(timetable.network_ms)
    if limit is None:
        return
    fixed = max(timetable.network_ms - timetable.searched_ms, 0.0)
    if limit < fixed:
        share = fixed / timetable.network_ms
        kinds = ", ".join(sorted({layer.kind for layer in profile.layers if layer.reason}))
        raise InfeasibleBudget(
            f"the latency must leave {fixed:.3g} ms ({share:.4f} of the dense network) for "
            f"what is not searched ({f'{kinds}, ' if kinds else ''}everything without a weight), "
            f"got {budget}; raise the budget or search more layers with `include`."
        )


def settle(
    result: SearchResult,
    stopwatch: Stopwatch,
    seconds: float,
    save: Callable[[Timetable], None],
    on_progress: Callable[[str], None],
) -> SearchResult:
    """Time the layers, then plans as whole networks until one holds the budget, then the front.

    Args:
        result: With a timetable, filled further in place.
        stopwatch: Of the network.
        seconds: For the layers, and as much again for whole networks; the plan for the budget
            itself is always measured.
        save: Called with the timetable after every part.
        on_progress: Called with what is being measured.

    Returns:
        The result with the plan that holds the budget.

    Raises:
        InfeasibleBudget: If no plan holds the budget on the clock.
    """
    timetable = result.timetable
    assert timetable is not None
    stopwatch.time_layers(timetable, result.tables, seconds, on_progress)
    save(timetable)
    end = time.perf_counter() + seconds
    on_progress("the plan for the budget")
    winner = _winner(result, stopwatch, timetable)
    save(timetable)
    result = replace(result, winner=winner)
    members = sorted(result.members, key=lambda member: _distance(result, member))
    for done, member in enumerate(members):
        if time.perf_counter() > end:
            break
        on_progress(f"the front, plan {done + 1} of {len(members)}")
        stopwatch.time_network(timetable, member.plan, member.saved)
    save(timetable)
    return replace(result)  # what was inferred from the timetable before is forgotten


def _winner(result: SearchResult, stopwatch: Stopwatch, timetable: Timetable) -> Plan:
    budget, tightened = result.budget, result.budget
    limit = budget.limit_ms(timetable.network_ms)
    for _ in range(TIMED_ROUNDS):
        # What was inferred from the timetable before is forgotten by the copy.
        result = replace(result)
        if not stopwatch.time_plan(timetable, result.plan(budget)):
            break
    for _ in range(ROUNDS):
        result = replace(result)
        member = result.member(result.allocate(tightened).choice)
        stopwatch.time_network(timetable, member.plan, member.saved)
        ratio = timetable.networks[member.plan.to_json()].ratio
        if limit is None or ratio * timetable.network_ms <= limit:
            return member.plan
        missed = ratio * timetable.network_ms / limit
        share = tightened.limit_ms(timetable.network_ms)
        assert share is not None
        tightened = replace(
            budget, latency=share / missed / timetable.network_ms, latency_ms=None, speedup=None
        )
    raise InfeasibleBudget(
        f"no plan held the budget on the clock in {ROUNDS} rounds, got {budget}; raise it."
    )


def _distance(result: SearchResult, member: Member) -> float:
    """How far a plan's FLOPs are from those of the plan for the budget."""
    return abs(member.used["flops"] - result.totals(result.best)["flops"])
