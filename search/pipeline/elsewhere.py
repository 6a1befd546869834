"""The plan that was chosen on one runtime's clock, timed by the clocks of the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import TimeLimit
from search.clock.timetable import Timetable
from search.front.choices import Choices
from search.whole_network.plan_clock import PlanClock
from sekron.export.refusal import failure_of
from sekron.network.plan import Plan


def time_elsewhere(
    plan: Plan,
    choices: Choices,
    beside: Mapping[str, Timetable],
    stopwatch_in: Callable[[str], Stopwatch],
    limit: TimeLimit,
    share: float,
    keep: Callable[[Timetable], None],
    on_progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Time a plan in the other runtimes of a run folder, where that was not done before.

    A runtime is left out whose times were measured in another setting, or that is not installed
    here, or for which the time does not suffice, by what is known of it.

    Args:
        plan: The one that was chosen.
        choices: Of the search.
        beside: Runtime -> its timetable in the folder.
        stopwatch_in: Returns what measures in a runtime.
        limit: Of all measuring.
        share: Of the limit, up to which there is time.
        keep: Called with each timetable that has a new time.
        on_progress: Called with what is being measured.
        warn: Called where a runtime does not take the network, or fails, or has not enough time, or
            the machine was too busy.
    """
    for runtime, timetable in beside.items():
        if timetable.of(plan) is not None:
            continue
        least, left = timetable.race_seconds + 2 * timetable.ready_seconds, limit.left(share)
        if plan and left < least:  # both the plan and the dense network are made ready
            warn(
                f"the plan has no time in {runtime}: that takes {least:.2g} s at least, of which "
                f"{left:.2g} s are left; raise `measure_seconds`."
            )
            continue
        try:
            stopwatch = _same_stopwatch(partial(stopwatch_in, runtime), timetable)
            if stopwatch is None:
                continue
            limit.stop_for(stopwatch.run_queue)
            on_progress(f"the plan in {runtime}")
            clock = PlanClock(stopwatch, timetable, limit, lambda _: None, on_progress)
            clock.time(choices.retimed(timetable).as_it_is(plan))
        except Exception as error:  # whatever a runtime raises that the search is not for
            warn(f"the plan has no time in {runtime}: {failure_of(error)}")
            continue
        if clock.timetable.doubt and not timetable.doubt:
            # One busy moment must not cast doubt on all that was measured there in quiet.
            warn(f"the plan has no time in {runtime}: {clock.timetable.doubt}.")
            continue
        keep(clock.timetable)
        for why in clock.refused.values():
            warn(f"the plan has no time in {runtime}: {why}")


def _same_stopwatch(make: Callable[[], Stopwatch], timetable: Timetable) -> Stopwatch | None:
    """Return what measures in the setting of a timetable, None where that cannot be had here."""
    try:
        stopwatch = make()
        is_other = timetable.setting.difference(stopwatch.setting())
    except ImportError:
        return None
    return None if is_other else stopwatch
