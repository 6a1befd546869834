"""How long a search will take, before its first layer and while it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import torch
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from search.per_layer.cost import proposal_seconds, template_seconds
from search.per_layer.depth import n_trials_of
from search.per_layer.space import Space
from search.pipeline.side_by_side import one_thread
from sekron.profiling.network_profile import LayerProfile, NetworkProfile

LONG = 60.0
"""Seconds from which a search says beforehand how long it takes."""

PROBE_SIZE, PROBE_SECONDS = 400, 0.023
"""An eigenvalue problem, and how long it took where the costs were measured."""

BELIEF = 5.0
"""Seconds for which the estimate is believed: what took that long itself counts as much."""


@dataclass(frozen=True, slots=True)
class LayerWork:
    """About how long the steps of a layer's search take, in the seconds of the cost model.

    Attributes:
        templates: Of each template.
        proposal: Of each proposal.
        n_trials: Proposals.
    """

    templates: list[float]
    proposal: float
    n_trials: int

    @classmethod
    def of(cls, space: Space, groups: int, n_trials: int) -> LayerWork:
        """Return the work of a layer.

        Args:
            space: Its structures.
            groups: Number of groups of its convolution.
            n_trials: Proposals.
        """
        proposal = proposal_seconds(space, groups) if n_trials else 0.0
        return cls(template_seconds(space, groups), proposal, n_trials)

    @property
    def steps(self) -> list[float]:
        """Of every structure that is scored, in their order."""
        return self.templates + self.n_trials * [self.proposal]

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(self.steps)


def work_of_layers(
    layers: Iterable[LayerProfile],
    spaces: Mapping[str, Space],
    profile: NetworkProfile,
    n_trials: int,
) -> dict[str, LayerWork]:
    """Return layer name -> work; that of layers of one shape is found once.

    Args:
        layers: Those that are searched, equal ones once.
        spaces: Layer name -> its structures.
        profile: Of the network.
        n_trials: Proposals of a layer that counts.
    """
    known: dict[tuple[Space, int, int], LayerWork] = {}
    found = {}
    for layer in layers:
        key = spaces[layer.name], layer.groups, n_trials_of(layer, profile, n_trials)
        if key not in known:
            known[key] = LayerWork.of(*key)
        found[layer.name] = known[key]
    return found


def slowness() -> float:
    """Return by how much this machine is slower, now, than where the costs were measured."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(PROBE_SIZE, PROBE_SIZE, generator=generator, dtype=torch.float64)
    seconds = []
    with one_thread():  # as the layers are searched
        for _ in range(3):
            start = time.perf_counter()
            torch.linalg.eigh(matrix @ matrix.mT)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / PROBE_SECONDS


def announcement(work: Sequence[LayerWork], n_threads: int) -> str:
    """Return what to say before layers are searched; nothing where that does not take long.

    Args:
        work: Of the layers that are searched.
        n_threads: Layers at the same time.
    """
    longest = max((own.seconds for own in work), default=0.0)
    seconds = max(sum(own.seconds for own in work) / n_threads, longest)
    taken = slowness() * seconds
    if taken < LONG:
        return ""
    return (
        f"{len(work)} layers take about {in_words(taken)} to search, the longest "
        f"{longest / seconds:.0%} of it; `min_share`, `exclude` or fewer `n_trials` make it "
        "shorter."
    )


def in_words(seconds: float) -> str:
    """Return a time to one unit: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


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


class Foreseen:
    """A task of a progress bar that knows how long its steps take, more or less.

    Args:
        shown: The progress bar, with the column `TimeLeft`.
        work: Layer name -> work.
    """

    def __init__(self, shown: Progress, work: Mapping[str, LayerWork]) -> None:
        self._shown, self._work = shown, work
        self._lock = Lock()
        self._total = sum(own.seconds for own in work.values())
        self._task = shown.add_task("search", total=self._total, at=0.0)

    def steps(self, name: str) -> Callable[[bool], None]:
        """Begin a layer; return what is called after every step, with whether it was done now."""
        self._shown.update(self._task, description=name)
        steps = iter(self._work[name].steps)

        def step(is_new: bool) -> None:
            seconds = next(steps)
            if is_new:
                elapsed = self._shown.tasks[self._task].elapsed
                self._shown.update(self._task, advance=seconds, at=elapsed)
            else:  # done by an earlier search: it tells nothing of how long others take
                with self._lock:
                    self._total -= seconds
                    self._shown.update(self._task, total=self._total)

        return step

    def is_done(self, name: str) -> None:
        """Take a layer for done that another worker has searched."""
        step = self.steps(name)
        for _ in self._work[name].steps:
            step(False)


class TimeLeft(ProgressColumn):
    """Time left of a task whose total is its estimated seconds; field `at`: of its last advance."""

    def render(self, task: Task) -> Text:
        """Return hours, minutes and seconds."""
        elapsed, at = task.elapsed or 0.0, float(task.fields.get("at", 0.0))
        left = round(seconds_left(task.completed, task.total or 0.0, at, elapsed - at))
        text = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return Text(text, style="progress.remaining")
