"""The seconds that all measuring of a search may take, whatever is measured in them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from search.clock.run_queue import RunQueue

DENSE, LAYERS, NETWORKS, BEFORE_SCORES = 0.1, 0.5, 0.75, 0.85
"""Shares of the limit that are spent, at most, once the dense network was measured, then the
layers, then the plans for the budget, then those of the front where plans are scored later."""


class TimeLimit:
    """A limit for the sum of several stretches of time; only inside `running` does it pass.

    Args:
        seconds: The limit.
        now: Returns the seconds on some clock.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds, self._now = seconds, now
        self._before = 0.0
        self._since: float | None = None
        self._queues: list[RunQueue] = []

    def stop_for(self, queue: RunQueue) -> None:
        """Let no time pass while races of a queue wait for those of other processes."""
        self._queues.append(queue)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let time pass; stretches do not nest."""
        self._since = self._time()
        try:
            yield
        finally:
            self._before, self._since = self.spent, None

    @property
    def spent(self) -> float:
        """Seconds that have passed."""
        return self._before + (0.0 if self._since is None else self._time() - self._since)

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until a share of the limit is spent, 0 where it is."""
        return max(share * self.seconds - self.spent, 0.0)

    def _time(self) -> float:
        return self._now() - sum(queue.queued for queue in self._queues)
