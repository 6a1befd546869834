"""Whether a machine is busy: how long this process's threads wait for a processor."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TASKS = Path("/proc/self/task")
"""Where Linux tells of every thread what it waited for; elsewhere nothing is known."""

BUSY = 0.1
"""Share of the measured time for which threads waited, all together, from which times are doubted.

On a quiet machine it is about a hundredth."""


class RunQueue:
    """Adds up how long the threads of this process were ready to run, and did not.

    Attributes:
        waited: Seconds that they waited within `attended`, all threads together.
        passed: Seconds that passed there.
    """

    def __init__(self) -> None:
        self.waited = self.passed = 0.0

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Attend to what runs inside."""
        before, start = _waited_seconds(), time.perf_counter()
        try:
            yield
        finally:
            self.passed += time.perf_counter() - start
            after = _waited_seconds()  # a thread that has ended takes its seconds with it
            self.waited += sum(max(after[task] - before.get(task, 0.0), 0.0) for task in after)

    @property
    def share(self) -> float:
        """Seconds waited over seconds passed; 0 where the system does not tell."""
        return self.waited / self.passed if self.passed else 0.0


def _waited_seconds() -> dict[str, float]:
    """Return task -> seconds that it has waited on a run queue so far."""
    waited = {}
    for file in TASKS.glob("*/schedstat"):
        try:
            waited[file.parent.name] = int(file.read_text().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # it has ended, or the kernel does not count
            continue
    return waited
