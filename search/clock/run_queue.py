"""Whether a machine is busy: how long this process's threads wait while others run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TASKS = Path("/proc/self/task")
"""Where Linux tells of every thread what it waited for; elsewhere nothing is known."""

STAT = Path("/proc/stat")
"""Where Linux tells for how long all processors ran what."""

RAN = (0, 1, 2, 5, 6, 7)
"""Places there of user, nice, system, interrupts, and of what another machine has stolen."""

BUSY = 0.1
"""Share of the measured time for which threads waited, all together, from which times are doubted.

On a quiet machine it is about a hundredth."""


class RunQueue:
    """Adds up how long the threads of this process were ready to run, and did not.

    They wait for each other too, where a runtime has more of them than there are processors. It
    would do so on a quiet machine as well; so no more counts than what other processes ran.

    Attributes:
        waited: Seconds that they waited within `attended`, all threads together.
        others: Seconds that processors ran other processes there; infinite where nobody knows.
        passed: Seconds that passed there.
        queued: Seconds that passed before, until no other process was measuring.
    """

    def __init__(self) -> None:
        self.waited = self.others = self.passed = self.queued = 0.0

    @contextmanager
    def attended(self, queued: float = 0.0) -> Iterator[None]:
        """Attend to what runs inside, which waited for its turn before."""
        self.queued += queued
        others = _others_seconds()
        before, start = _waited_seconds(), time.perf_counter()
        try:
            yield
        finally:
            self.passed += time.perf_counter() - start
            after = _waited_seconds()  # a thread that has ended takes its seconds with it
            self.waited += sum(max(after[task] - before.get(task, 0.0), 0.0) for task in after)
            ran = _others_seconds() - others
            self.others += ran if math.isfinite(ran) else math.inf

    @property
    def share(self) -> float:
        """Seconds waited over seconds passed; 0 where the system does not tell."""
        return max(min(self.waited, self.others), 0.0) / self.passed if self.passed else 0.0


def _others_seconds() -> float:
    """Return for how long processors have run anything but this process so far."""
    try:
        ticks = [int(number) for number in STAT.read_text().split()[1:9]]
    except (OSError, ValueError):
        return math.inf
    own = os.times()
    return sum(ticks[place] for place in RAN) / os.sysconf("SC_CLK_TCK") - own.user - own.system


def _waited_seconds() -> dict[str, float]:
    """Return task -> seconds that it has waited on a run queue so far."""
    waited = {}
    for file in TASKS.glob("*/schedstat"):
        try:
            waited[file.parent.name] = int(file.read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # it has ended, or the kernel does not count
            continue
    return waited
