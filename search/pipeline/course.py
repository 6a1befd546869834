"""One bar over all stages of a search, with the time that is left of them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock
from typing import Self

from rich.progress import Progress, ProgressColumn, Task, TaskProgressColumn
from rich.text import Text

from sekron.progress import bar

BELIEF = 5.0
"""Seconds for which an estimate is believed: what took that long itself counts as much."""


def seconds_left(done: float, total: float, until_now: float, since: float) -> float:
    """Return the seconds that are left of work whose parts were estimated.

    The estimate is corrected by how long the parts took that are done, more the more these are.

    Args:
        done: Estimated seconds of what is done.
        total: Of all.
        until_now: Seconds that it took.
        since: Seconds since the last part was done.
    """
    slower = (until_now + BELIEF) / (done + BELIEF)
    return max(slower * (total - done) - since, 0.0)


class Course:
    """How far a search is, in the estimated seconds of its stages.

    A stage that nothing is foreseen of takes as long as it takes; its time is not counted.

    Args:
        is_shown: Whether a bar is shown on stderr.
        now: Returns seconds on some clock.
    """

    def __init__(self, is_shown: bool, now: Callable[[], float] = time.monotonic) -> None:
        self.shown: Progress = bar(is_shown, [TaskProgressColumn(), TimeLeft(self)])
        self.is_shown = is_shown
        self._now, self._lock = now, RLock()
        self._foreseen: dict[str, float] = {}
        self._before = 0.0  # estimated seconds of the stages that are over
        self._done = self._total = 0.0  # of the stage that runs
        self._since = self._at = now()  # when it began, and when its last part was done
        self._task = self.shown.add_task("begin", total=None)

    def __enter__(self) -> Self:
        self.shown.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.shown.stop()
        else:  # one line tells why, and the bar leaves none
            self.shown.live.transient = True
            self.shown.live.stop()

    def foresee(self, seconds: Mapping[str, float]) -> None:
        """Say about how long stages to come will take, by their names."""
        with self._lock:
            self._foreseen |= seconds
            self._update()

    @contextmanager
    def stage(self, name: str) -> Iterator[float]:
        """Run a stage, and return what was foreseen of it; at its end all that is done."""
        with self._lock:
            self._done, self._total = 0.0, self._foreseen.pop(name, 0.0)
            self._since = self._at = self._now()
            self._update(name)
        yield self._total
        with self._lock:
            self._before += self._total
            self._done = self._total = 0.0
            self._update()

    def tell(self, what: str, done: float = 0.0) -> None:
        """Say what is being done in the stage, and what of its seconds was done before that."""
        with self._lock:
            if done > 0.0:
                self._done, self._at = min(self._done + done, self._total), self._now()
            self._update(what)

    def skip(self, seconds: float) -> None:
        """Take what an earlier search has done from the stage: it tells nothing of the rest."""
        with self._lock:
            self._total = max(self._total - seconds, self._done)
            self._update()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.is_shown:
            self.shown.console.print(text, soft_wrap=True, highlight=False, markup=False)

    @property
    def left(self) -> float | None:
        """Seconds that are left of all stages, None before anything was foreseen."""
        with self._lock:
            if self._whole == 0.0:
                return None
            until, since = self._at - self._since, self._now() - self._at
            running = seconds_left(self._done, self._total, until, since)
            return running + sum(self._foreseen.values())

    @property
    def _whole(self) -> float:
        return self._before + self._total + sum(self._foreseen.values())

    def _update(self, what: str | None = None) -> None:
        self.shown.update(
            self._task,
            description=what,
            completed=self._before + self._done,
            total=self._whole or None,
        )


class TimeLeft(ProgressColumn):
    """Time left of a course.

    Args:
        course: Of the search.
    """

    def __init__(self, course: Course) -> None:
        super().__init__()
        self._course = course

    def render(self, task: Task) -> Text:  # noqa: ARG002  there is one
        """Return hours, minutes and seconds."""
        left = self._course.left
        return Text("-:--:--" if left is None else clock_text(left), style="progress.remaining")


def clock_text(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    Example:
        >>> clock_text(3725.4)
        '1:02:05'
    """
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
