"""Layers on the clock: which of their structures are timed, and in what order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from search.clock.candidate_times import untimed
from search.clock.prospects import Prospects
from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import LAYERS, NETWORKS, TimeLimit
from search.clock.timetable import Timetable
from search.front.choices import Choices, Member
from sekron.profiling.network_profile import LayerProfile

WEIGHTLESS = 0.01
"""Share of the dense network's time below which no plan is told from another one on the clock."""


class LayerClock:
    """Times structures of layers, and knows all that was timed before.

    What can be left out is, when its share of the limit is spent.

    Attributes:
        limit: Of all measuring.
        weightless: How many structures were not timed since no plan can depend on them.

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
        self._stopwatch, self._timetable, self._keep = stopwatch, timetable, keep
        self._before = timetable  # of an earlier search
        self.limit, self._on_progress = limit, on_progress
        self._left_out: dict[str, str] = {}  # what -> how many of how many
        self.weightless = 0

    @property
    def timetable(self) -> Timetable:
        """All that was measured so far."""
        return self._timetable

    @property
    def has_time(self) -> bool:
        """Whether the limit is not spent."""
        return self.limit.left() > 0.0

    @property
    def refused(self) -> dict[str, str]:
        """What the runtime does not take -> why."""
        return self._stopwatch.refused

    @property
    def left_out(self) -> str:
        """What was not measured for lack of time; empty if nothing was left out."""
        return ", ".join(f"{number} {what}" for what, number in self._left_out.items())

    def leave_out(self, what: str, number: str) -> None:
        """Note what was not measured for lack of time; what was noted first holds."""
        self._left_out.setdefault(what, number)

    def time_layers(self, choices: Choices) -> None:
        """Time structures of layers, always the one that plans may gain most from.

        It ends before its time is up once all that is left may save less than a race of networks
        can show; but of every layer one structure at least is timed.
        """
        kinds: dict[str, list[LayerProfile]] = {}
        for layer in self._stopwatch.layers:
            kinds.setdefault(self._timetable.layers[layer.name].key, []).append(layer)

        def prospects(key: str) -> Prospects:
            return Prospects.of(kinds[key], choices.tables, self._timetable)

        left = partial(self.limit.left, LAYERS)
        ahead = {key: prospects(key) for key in kinds}
        while n_left := sum(own.n_left for own in ahead.values()):
            first = {key: own.first for key, own in ahead.items() if own.first is not None}
            ahead_ms = sum(own.ahead_ms for own in ahead.values())
            if ahead_ms < WEIGHTLESS * self._timetable.network_ms:
                # Of a layer that nothing was timed of, no plan for a latency could take anything.
                first = {key: own for key, own in first.items() if not self._runs(key)}
            if not first:
                self.weightless = n_left
                break
            key = max(first, key=lambda name: first[name].promise)
            candidate = first[key]
            if left() < candidate.least_seconds(self._stopwatch, self._timetable):
                self.leave_out("structures of layers", f"{n_left} of {self._n_timed + n_left}")
                break
            self._on_progress(f"{candidate.layer.name}, {n_left} structures may matter")
            self._set(candidate.timed(self._stopwatch, self._timetable, left))
            ahead[key] = prospects(key)

    def _runs(self, key: str) -> bool:
        """Whether any structure was timed that the runtime takes in the layers of a key."""
        return any(times.runs for times in self._timetable.timed.get(key, {}).values())

    @property
    def _n_timed(self) -> int:
        return sum(map(len, self._timetable.timed.values()))

    def time_candidates(self, member: Member) -> bool:
        """Time exactly the candidates of a plan; return whether any was not timed before."""
        before = self._timetable
        for candidate in untimed(self._stopwatch, before, member.plan):
            if self.limit.left(NETWORKS) < candidate.least_seconds(self._stopwatch, before):
                break
            self._on_progress(f"{candidate.layer.name} of a plan for the budget")
            left = partial(self.limit.left, NETWORKS)
            self._set(candidate.timed(self._stopwatch, self._timetable, left))
        return self._timetable is not before

    def _set(self, timetable: Timetable) -> None:
        if timetable is not self._timetable:
            waited = max(self._before.waited, self._stopwatch.run_queue.share)
            spread = max(self._before.spread, self._stopwatch.steadiness.spread)
            ready_seconds = self._stopwatch.sides.network_seconds or timetable.ready_seconds
            self._timetable = replace(
                timetable, waited=waited, spread=spread, ready_seconds=ready_seconds
            )
            self._keep(self._timetable)
