"""What a search tells as it goes, and what an earlier one has told: to a folder, or to nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from optuna.storages import BaseStorage, InMemoryStorage

from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.folder.settings import Settings
from search.folder.storage import open_storage
from sekron.decomposition.decompose import Decomposition, decompose
from sekron.export.runtimes import RUNTIMES
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile


class Recorder(Protocol):
    """Observes the stages of a search; a run folder is one."""

    @property
    def path(self) -> Path | None:
        """Of the folder, where other processes can help; None without one."""
        ...

    def check(self, settings: Settings, profile: NetworkProfile, digests: dict[str, str]) -> None:
        """Refuse a search that is not the one that was recorded."""
        ...

    def check_writable(self) -> None:
        """Refuse a place where nothing can be recorded; nothing is written."""
        ...

    def metric(self) -> NetworkMetric | None:
        """Return the metric of an earlier search, or None."""
        ...

    def timetable(self, metrics: NetworkMetric, runtime: str) -> Timetable | None:
        """Return the times that were measured before in a runtime, or None."""
        ...

    def scores(self, metrics: NetworkMetric) -> Scores | None:
        """Return the scores of earlier searches, or None."""
        ...

    def trials(self, url: str | None) -> BaseStorage:
        """Return where trials are kept, at a URL if there is one; made if it is missing."""
        ...

    def factors(self) -> Decomposition:
        """Return what decomposes weights, and may remember it."""
        ...

    def begin(
        self,
        settings: Settings,
        profile: NetworkProfile,
        digests: dict[str, str],
        metrics: NetworkMetric,
    ) -> None:
        """Record what is searched."""
        ...

    def keep_timetable(self, timetable: Timetable) -> None:
        """Record times."""
        ...

    def keep_scores(self, scores: Scores) -> None:
        """Record scores."""
        ...

    def finish(self, candidates: str, front: str, plan: Plan) -> None:
        """Record the outcome: two tables as CSV, and the best plan."""
        ...


def timetables_beside(
    recorder: Recorder, metrics: NetworkMetric, runtime: str
) -> dict[str, Timetable]:
    """Return runtime -> the times that were measured in it, of all but one."""
    found = {name: recorder.timetable(metrics, name) for name in RUNTIMES if name != runtime}
    return {name: times for name, times in found.items() if times is not None}


class Nobody:
    """The recorder of a search without a folder."""

    path = None

    def check(self, settings: Settings, profile: NetworkProfile, digests: dict[str, str]) -> None:
        """Nothing was recorded."""

    def check_writable(self) -> None:
        """Nothing will be recorded."""

    def metric(self) -> None:
        """Nothing was recorded."""

    def timetable(self, metrics: NetworkMetric, runtime: str) -> None:
        """Nothing was recorded."""

    def scores(self, metrics: NetworkMetric) -> None:
        """Nothing was recorded."""

    def trials(self, url: str | None) -> BaseStorage:
        """Return the storage that was asked for, or one in memory."""
        return InMemoryStorage() if url is None else open_storage(url)

    def factors(self) -> Decomposition:
        """Return what remembers nothing."""
        return decompose

    def begin(
        self,
        settings: Settings,
        profile: NetworkProfile,
        digests: dict[str, str],
        metrics: NetworkMetric,
    ) -> None:
        """Keep nothing."""

    def keep_timetable(self, timetable: Timetable) -> None:
        """Keep nothing."""

    def keep_scores(self, scores: Scores) -> None:
        """Keep nothing."""

    def finish(self, candidates: str, front: str, plan: Plan) -> None:
        """Keep nothing."""
