"""Compressed networks on the clock: each plan is timed once, and what was measured is kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from torch import nn

from search.clock.sides import NoMemory
from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import NETWORKS, TimeLimit
from search.clock.times import Effort, Interval, NetworkTime, agreed
from search.clock.timetable import Timetable
from search.front.choices import Member
from search.whole_network.blame import blamed, without
from search.whole_network.layer_clock import LayerClock
from sekron.budget import Budget
from sekron.export.refusal import CannotRun, failure_of
from sekron.network.plan import Plan

OFF = 0.1
"""Share by which a prediction must lie outside of a measured interval for both to be doubted."""

PART = 0.25
"""Of the time that is left, what one network may take at most."""

NETWORK_SECONDS = 4.0
"""For one network against the dense one."""

ENOUGH = 20
"""Rounds that a network gets in any case if there is time: fewer say little of a slow one."""

NEVER = 1e6
"""Excess of what the runtime does not take, over any budget."""


class PlanClock(LayerClock):
    """Times plans, and knows all that was timed before.

    A plan that is to win is timed in any case, whatever is left of the limit.

    Attributes:
        is_late: Whether networks had to be timed when the time was up already.

    Args:
        stopwatch: Of the network.
        timetable: What was measured so far.
        limit: Of all measuring.
        keep: Called with the timetable after everything that was measured.
        on_progress: Called with what is being measured.
    """

    def __init__(
        self,
        stopwatch: Stopwatch,
        timetable: Timetable,
        limit: TimeLimit,
        keep: Callable[[Timetable], None],
        on_progress: Callable[[str], None],
    ) -> None:
        super().__init__(stopwatch, timetable, limit, keep, on_progress)
        self._last = "", nn.Module()  # digest of the plan that was raced last, and its network
        self._tried_again: set[str] = set()  # digests of plans that once failed, for no layer
        self._has_run, self._reason = False, ""  # of plans: whether any; why the last did not
        self.is_late = False

    @property
    def refusal(self) -> CannotRun | None:
        """Why the network of no plan has run, where this search has tried some; else None."""
        if self._has_run or not self._reason:
            return None
        return CannotRun(
            "a compressed network must run to be timed, but that of no plan tried did, the "
            f"last since: {self._reason} Their factors were random; where no latency is limited "
            "and no runtime named, set `measure_seconds` to 0, and nothing is timed."
        )

    def time(self, member: Member) -> NetworkTime:
        """Return the time of a plan's network, which is measured if it was not before.

        It is infinite where the network does not run.
        """
        measured = self._timetable.of(member.plan)
        if measured is None:
            measured = self._measured(member, PART * self.limit.left())
            self._set(self._timetable.with_network(member.plan, measured))
        self._has_run = self._has_run or (bool(member.plan) and measured.runs)
        return measured

    def _measured(self, member: Member, seconds: float) -> NetworkTime:
        plan = member.plan
        if not plan:
            return NetworkTime(1.0, 0.0, 1.0, 0, 1.0, 1.0)
        try:
            small = self._compressed(plan)
            low, ratio, high = self._race(small, seconds)
        except Exception as error:  # with random factors, forward may raise whatever it likes
            is_lasting = isinstance(error, CannotRun) and not isinstance(error, NoMemory)
            return self._refusal(member, error, is_passing=not is_lasting)
        predicted = self._timetable.effect().ratio(member.saved, len(plan))
        is_off = predicted < (1 - OFF) * low or predicted > (1 + OFF) * high
        if is_off and self.has_time:
            # One of both is wrong, and it may be the clock. What ran once has that time.
            with suppress(Exception):
                low, ratio, high = agreed((low, ratio, high), self._race(small, seconds))
        activations = math.nan
        with suppress(Exception):  # of memory, whatever comes: the time is what was asked for
            activations = self._stopwatch.activations(small)
        return NetworkTime(ratio, member.saved, activations, len(plan), low, high)

    def _refusal(self, member: Member, error: Exception, *, is_passing: bool) -> NetworkTime:
        """Return the time of a network that does not run, and note why."""
        plan = member.plan
        self._reason = failure_of(error)
        self.refused[_network_of(plan)] = self._reason
        return NetworkTime(math.inf, member.saved, math.nan, len(plan), is_passing=is_passing)

    def excess(self, member: Member, budget: Budget) -> float:
        """Return by how much a plan's network exceeds a budget's latency, as a share of it.

        One that seems to hold it is timed once more, and the slower time is kept: of many plans
        that are timed once, the one that seems to hold a limit is likely one that was lucky. A time
        that is not sure holds a limit only with the slow end of its interval. What the runtime does
        not take exceeds every budget, and for this search so does what fails the second time.
        """
        measured = self.time(member)
        if not self.knows(member, budget) and self._excess(measured, budget) <= 0.0:
            try:
                again = self._race(self._compressed(member.plan), PART * self.limit.left())
            except Exception as error:  # whatever a runtime raises of what it has run already
                measured = self._refusal(member, error, is_passing=True)
            else:
                measured = _confirmed(measured, again)
            self._set(self._timetable.with_network(member.plan, measured))
        return self._excess(measured, budget)

    def knows(self, member: Member, budget: Budget) -> bool:
        """Whether a plan's network was timed as often as its budget asks for."""
        measured = self._timetable.of(member.plan)
        if measured is None:
            return False
        return measured.is_confirmed or not member.plan or not budget.is_clocked

    def time_front(self, members: list[Member], share: float) -> None:
        """Time the networks of a front, in this order: all of them a little, rather than some.

        One that fails, however it does, has no time, and the others are timed.

        Args:
            members: Of the front.
            share: Of the limit, which is spent then.
        """
        unknown = [m for m in members if self._timetable.of(m.plan) is None]
        least = self._timetable.race_seconds + self._stopwatch.sides.network_seconds
        for done, member in enumerate(unknown):
            left = self.limit.left(share)
            if left < least:
                self.leave_out("plans of the front", f"{len(unknown) - done} of {len(unknown)}")
                break
            self._on_progress(f"the front, plan {done + 1} of {len(unknown)}")
            measured = self._measured(member, left / (len(unknown) - done))
            self._set(self._timetable.with_network(member.plan, measured))

    def blame(self, member: Member) -> bool:
        """Refuse those structures of a plan for which the runtime does not take its network.

        Where it takes each of them without the others, the network may be measured once more.

        Returns:
            Whether anything has changed by that; not if the network failed again.
        """
        self._on_progress("what the runtime does not take")
        measured = self._timetable.of(member.plan)
        is_passing = measured is not None and measured.is_passing
        names = blamed(member.plan, self._takes)
        if not names:
            if member.plan.digest in self._tried_again or not self._takes(member.plan):
                return False
            self._tried_again.add(member.plan.digest)
            self._set(self._timetable.without_network(member.plan))  # or runs, if tried again
        why = self.refused.pop(_network_of(member.plan), "")
        self.refused.update({f"{member.plan[name]} in layer {name!r}": why for name in names})
        self._set(without(member.plan, names, self._timetable, is_passing=is_passing))
        return True

    def _takes(self, plan: Plan) -> bool:
        try:
            self._stopwatch.sides.network(self._compressed(plan))
        except Exception as error:  # as of the network that is measured
            self._reason = failure_of(error)
            return False
        return True

    def effort(self, trials: int) -> Effort:
        """Return what a plan was looked for with, besides trials of whole networks.

        Where anything is refused for now alone, every other search may find a better one.
        """
        if self._timetable.has_passing:
            return Effort(0.0, trials)
        is_hurried = bool(self._left_out) or self.limit.left(NETWORKS) == 0.0
        return Effort(self.limit.seconds if is_hurried else math.inf, trials)

    def crown(self, question: str, member: Member, effort: Effort) -> None:
        """Record the plan that was measured to hold a budget.

        Args:
            question: What it is the answer to.
            member: The plan.
            effort: That it was looked for with.
        """
        self._set(self._timetable.with_winner(question, member.plan, effort))

    def _compressed(self, plan: Plan) -> nn.Module:
        """Return the network under a plan; the last one is kept, ready as it is."""
        if plan.digest != self._last[0]:
            self._last = plan.digest, self._stopwatch.compressed(plan)
        return self._last[1]

    def _race(self, small: nn.Module, seconds: float) -> Interval:
        """Return the time of a compressed network over the dense one's, within its interval."""
        self.is_late = self.is_late or not self.has_time
        most = max(NETWORK_SECONDS, ENOUGH * 2 * self._timetable.network_ms / 1e3)
        return self._stopwatch.network_ratio(small, min(seconds, most))

    def _excess(self, measured: NetworkTime, budget: Budget) -> float:
        if not measured.runs:
            return NEVER
        # The machine may have been faster when the dense network was timed than it is by now.
        dense_ms = max(self._timetable.network_ms, self._stopwatch.steadiness.median_ms)
        limit = budget.limit_ms(dense_ms)
        ratio = measured.ratio if measured.is_sure else measured.high
        return 0.0 if limit is None else ratio * dense_ms / limit - 1.0


def _confirmed(measured: NetworkTime, again: Interval) -> NetworkTime:
    """Return the slower one of a network's time and of a second race."""
    low, _, high = agreed((measured.low, measured.ratio, measured.high), again)
    ratio = max(measured.ratio, again[1])
    low, high = min(low, ratio), max(high, ratio)
    return replace(measured, ratio=ratio, low=low, high=high, is_confirmed=True)


def _network_of(plan: Plan) -> str:
    return f"the network of plan {plan.digest[:12]}"
