"""What is said of the clock at the end of a search: what it lacks, and where it may be wrong."""

from __future__ import annotations

from collections.abc import Callable

from search.whole_network.layer_clock import WEIGHTLESS
from search.whole_network.plan_clock import PlanClock
from sekron.budget import Budget


def tell_times(
    clock: PlanClock, budget: Budget, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Say what there was no time to measure, and warn where the time that was set is exceeded."""
    limit = clock.limit
    tell_doubt(clock, warn)
    if clock.refused:
        what, why = next(iter(clock.refused.items()))
        warn(
            f"{clock.timetable.setting.runtime} does not take {len(clock.refused)} of what was to "
            f"be timed, which it has no time of; the first is {what}: {why}"
        )
    if clock.weightless:
        say(
            f"{clock.weightless} structures of layers were not timed: on average plans would gain "
            f"less than {WEIGHTLESS:.0%} of the network's time from them."
        )
    if clock.left_out:
        say(
            f"measured for {limit.spent:.1f} s of {limit.seconds:g} s; no time for "
            f"{clock.left_out}; raise `measure_seconds` to measure more."
        )
    if clock.is_late:
        warn(
            f"`measure_seconds` of {limit.seconds:g} did not suffice to measure the plan for "
            f"{budget}, which took {limit.spent:.1f} s with the fewest runs; raise it."
        )


def tell_doubt(clock: PlanClock, warn: Callable[[str], None]) -> None:
    """Warn where the machine was too busy, or the dense network's time is not known."""
    times = clock.timetable
    if not times.is_dense_sure:
        warn(
            "the median time of the dense network is only known to lie between "
            f"{times.network_low_ms:.4g} and {times.network_high_ms:.4g} ms; run the same search "
            "again, with more `measure_seconds` or on a quieter machine, and it is measured anew."
        )
    if times.doubt:
        warn(
            f"the machine was too busy for the clock: {times.doubt}, so that the "
            "latencies may be wrong; run the same search again when it is quiet, and they are "
            "measured anew."
        )
