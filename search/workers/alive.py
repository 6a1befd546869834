"""Whether a worker is alive: by its process where that is here, by its signs of life elsewhere."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from optuna.trial import FrozenTrial

BEAT = 5.0
"""Seconds between two signs of life of a worker."""

GRACE = 60.0
"""Seconds without one after which others take over what a worker had in hand."""

BEATS, HOST, PID, SINCE = "beats", "host", "pid", "since"
MACHINE, THREAD = "machine", "thread"
"""User attributes of the trial of a worker: its signs of life so far, and where it lives."""

SEARCHES = "searches"
"""User attribute of a worker that is the search itself, of which there is one at a time."""


def whereabouts(thread: str, *, is_search: bool) -> dict[str, Any]:
    """Return the user attributes of a worker of this process.

    Args:
        thread: Name of the thread that gives its signs of life.
        is_search: Whether it is the search that others help with.
    """
    pid = os.getpid()
    process = {HOST: socket.gethostname(), PID: pid, SINCE: _since(pid), MACHINE: _machine()}
    return {BEATS: 0, **process, THREAD: thread, SEARCHES: is_search}


@dataclass(slots=True)
class _Seen:
    beats: object
    at: float
    unchanged: float = 0.0
    has_changed: bool = False


class Watch:
    """Watches workers, each by its trial.

    A process of this machine tells itself whether it runs. Of any other the signs of life are
    counted, and no clock is compared with another one's: stale is what has not changed for
    `GRACE` seconds of this process. Only time in which it looked counts, so that a storage
    that does not answer makes nobody stale.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}
        self._lock = Lock()

    def is_alive(self, worker: FrozenTrial) -> bool:
        """Whether a worker is alive, or not known to be dead."""
        with self._lock:
            seen = self._look(worker)
        return _runs(worker.user_attrs) and seen.unchanged < GRACE

    def is_known_alive(self, worker: FrozenTrial) -> bool:
        """Whether a worker that is not known to be dead is known to be alive."""
        with self._lock:
            seen = self._look(worker)
        return seen.has_changed or _is_here(worker.user_attrs)

    def _look(self, worker: FrozenTrial) -> _Seen:
        now, beats = time.monotonic(), worker.user_attrs.get(BEATS)
        seen = self._seen.setdefault(worker.number, _Seen(beats, now))
        if seen.beats != beats:
            seen = self._seen[worker.number] = _Seen(beats, now, has_changed=True)
        seen.unchanged += min(now - seen.at, BEAT)
        seen.at = now
        return seen


def _is_here(place: dict[str, Any]) -> bool:
    return bool(_machine()) and place.get(MACHINE) == _machine()


def _runs(place: dict[str, Any]) -> bool:
    """Whether a worker's process runs, as far as that can be known here."""
    if not _is_here(place):
        return True
    pid = place[PID]
    if pid == os.getpid():
        return any(thread.name == place.get(THREAD) for thread in threading.enumerate())
    # Its number may be another process's by now.
    return _since(pid) in (None, place.get(SINCE))


def _since(pid: int) -> str | None:
    """Return when a process began, in the kernel's count; nothing if it ended, None if unknown."""
    if sys.platform == "win32":  # where this signal is no question, but Ctrl-C
        return None
    with suppress(PermissionError):  # another user's lives
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return ""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # One that has ended, but that its parent has not asked for, has the state Z.
        return "" if state == "Z" else fields[18]
    except OSError:  # kept from us, or ended just now
        return None


def _machine() -> str:
    """Return what only processes share that see each other; nothing where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
