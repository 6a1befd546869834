"""What the stages of a search take, seen from outside: nothing of the search is changed."""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from search.per_layer.study import LayerStudy
from search.pipeline.course import Course
from sekron.structures.families import Point


@dataclass(slots=True)
class Spent:
    """What was spent since `watching` began.

    Attributes:
        seconds: Stage -> seconds on the clock.
        peak_gib: Stage -> most memory of the process until its end.
        of_threads: Part of the layers' stage -> seconds of the processor, over all threads.
        structures: Part of the layers' stage -> structures.
    """

    seconds: Counter[str] = field(default_factory=Counter)
    peak_gib: dict[str, float] = field(default_factory=dict)
    of_threads: Counter[str] = field(default_factory=Counter)
    structures: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        stages = [
            f"stage {stage}: {seconds:.1f} s, peak memory until then {self.peak_gib[stage]:.2f} GiB"
            for stage, seconds in self.seconds.items()
        ]
        parts = [
            f"  {part}: {self.of_threads[part]:.1f} s of the processor for {number} structures"
            for part, number in self.structures.items()
        ]
        return "\n".join(stages + parts)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start
        self.peak_gib[name] = peak_gib()

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Count what one structure takes; a thread counts for itself."""
        start = time.thread_time()
        work()
        self.of_threads[name] += time.thread_time() - start
        self.structures[name] += 1


def peak_gib(whose: int = resource.RUSAGE_SELF) -> float:
    """Return the most memory that this process has had until now, or one that it has begun."""
    return resource.getrusage(whose).ru_maxrss / 2**20


@contextmanager
def watching() -> Iterator[Spent]:
    """Watch the searches within the block."""
    spent = Spent()
    stage, add, propose = Course.stage, LayerStudy._add_template, LayerStudy.propose

    @contextmanager
    def watched_stage(course: Course, name: str) -> Iterator[float]:
        with spent.stage(name), stage(course, name) as foreseen:
            yield foreseen

    def watched_template(study: LayerStudy, point: Point) -> None:
        spent.part(f"templates, {point[0]}", lambda: add(study, point))

    def watched_proposal(study: LayerStudy) -> None:
        spent.part("proposals", lambda: propose(study))

    watched: dict[tuple[type, str], Any] = {
        (Course, "stage"): watched_stage,
        (LayerStudy, "_add_template"): watched_template,
        (LayerStudy, "propose"): watched_proposal,
    }
    patches = [patch.object(kind, name, function) for (kind, name), function in watched.items()]
    for each in patches:
        each.start()
    try:
        yield spent
    finally:
        for each in patches:
            each.stop()
