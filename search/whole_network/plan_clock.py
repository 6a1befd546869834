"""Compressed networks on the clock: each plan is timed once, and what was measured is kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from search.clock.candidate_times import time_fronts, time_plan
from search.clock.stopwatch import NETWORK_SECONDS, Stopwatch
from search.clock.timetable import NetworkTime, Timetable
from search.front.choices import Choices, Member
from sekron.budget import Budget


class PlanClock:
    """Times plans, and knows all that was timed before.

    Args:
        stopwatch: Of the network.
        timetable: What was measured so far.
        keep: Called with the timetable after everything that was measured.
        on_progress: Called with what is being measured.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        timetable: Timetable,
        keep: Callable[[Timetable], None],
        on_progress: Callable[[str], None],
    ) -> None:
        self._stopwatch, self._timetable, self._keep = stopwatch, timetable, keep
        self._on_progress = on_progress

    @property
    def timetable(self) -> Timetable:
        """All that was measured so far."""
        return self._timetable

    def time_layers(self, choices: Choices, seconds: float) -> None:
        """Time the candidates on the layers' fronts, most promising first, for some seconds."""
        tables = choices.tables
        for filled in time_fronts(
            self._stopwatch, self._timetable, tables, seconds, self._on_progress
        ):
            self._set(filled)

    def time_candidates(self, member: Member) -> bool:
        """Time exactly the candidates of a plan; return whether any was not timed before."""
        before = self._timetable
        self._set(time_plan(self._stopwatch, before, member.plan))
        return self._timetable is not before

    def time(self, member: Member, seconds: float = NETWORK_SECONDS) -> NetworkTime:
        """Return the time of a plan's network, which is measured if it was not before.

        Args:
            member: The plan.
            seconds: After which to stop, but not before the fewest rounds.
        """
        plan, measured = member.plan, self._timetable.of(member.plan)
        if measured is not None:
            return measured
        measured = NetworkTime(1.0, 0.0, 1.0, 0)
        if plan:
            small = self._stopwatch.compressed(plan)
            ratio = self._stopwatch.network_ratio(small, min(seconds, NETWORK_SECONDS))
            activations = self._stopwatch.activations(small)
            measured = NetworkTime(ratio, member.saved, activations, len(plan))
        self._set(self._timetable.with_network(plan, measured))
        return measured

    def excess(self, member: Member, budget: Budget) -> float:
        """Return by how much a plan's network exceeds a budget's latency, as a share of it.

        One that seems to hold it is timed once more, and the slower time is kept: of many plans
        that are timed once, the one that seems to hold a limit is likely one that was lucky.
        """
        is_new = self._timetable.of(member.plan) is None
        excess = self._excess(self.time(member), budget)
        if is_new and excess <= 0.0 and budget.is_clocked and member.plan:
            again = self._stopwatch.network_ratio(
                self._stopwatch.compressed(member.plan), NETWORK_SECONDS
            )
            first = self.time(member)
            slower = replace(first, ratio=max(first.ratio, again))
            self._set(self._timetable.with_network(member.plan, slower))
            excess = self._excess(slower, budget)
        return excess

    def time_front(self, members: list[Member], seconds: float) -> None:
        """Time the networks of a front, in this order: all of them a little, rather than some."""
        end = time.perf_counter() + seconds
        unknown = [m for m in members if self._timetable.of(m.plan) is None]
        for done, member in enumerate(unknown):
            left = end - time.perf_counter()
            if left < 0:
                break
            self._on_progress(f"the front, plan {done + 1} of {len(unknown)}")
            self.time(member, left / (len(unknown) - done))

    def crown(self, question: str, member: Member) -> None:
        """Record the plan that was measured to hold a budget."""
        self._set(self._timetable.with_winner(question, member.plan))

    def _excess(self, measured: NetworkTime, budget: Budget) -> float:
        limit = budget.limit_ms(self._timetable.network_ms)
        return 0.0 if limit is None else measured.ratio * self._timetable.network_ms / limit - 1.0

    def _set(self, timetable: Timetable) -> None:
        if timetable is not self._timetable:
            self._timetable = timetable
            self._keep(timetable)
