"""One measurement at a time on a machine, whichever process, thread or user makes it."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

if sys.platform != "win32":
    import fcntl

POLL_S = 0.005
"""Between two looks of one that waits for the clock, where the system does not wake it."""

YIELD_S = 2 * POLL_S
"""Left to others that wait for the clock, who would never get it between two races."""


@contextmanager
def alone() -> Iterator[float]:
    """Hold the machine's clock: processes that measure at once would measure each other.

    The system gives it back when its holder dies.

    Yields:
        Seconds that it took to get it.
    """
    start = time.perf_counter()
    with _held(Path(tempfile.gettempdir())):
        yield time.perf_counter() - start
    time.sleep(YIELD_S)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder of temporary files, which is there for all users, whoever owns it."""
    if sys.platform == "win32":
        with FileLock(folder / "sekron-clock.lock").acquire(poll_interval=POLL_S):
            yield
        return
    descriptor = os.open(folder, os.O_RDONLY)  # of this thread alone: others wait for it
    try:
        with suppress(OSError):  # some network file systems lock no folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
