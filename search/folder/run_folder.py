"""The folder of a run: record, metric, study, times, scores, factors, front and plan."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from search.clock import timetable_record
from search.clock.race import EAGER
from search.clock.timetable import Timetable
from search.folder.factor_cache import FactorCache
from search.folder.journal import open_journal, read_journal
from search.folder.run_record import RunRecord, versions
from search.folder.scores import Scores
from search.folder.settings import Settings, Source
from search.folder.storage import open_storage, read_storage, told, without_password
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import NetworkProfile
from sekron.records import read_text, short, unwritten, write_text

RECORD, JOURNAL = "run.json", "study.log"
LATENCY, SCORES = "latency.json", "scores.json"
CANDIDATES, FRONT, PLAN = "candidates.csv", "front.csv", "plan.json"
FACTORS = "factors"


class RunFolder:
    """Reads and writes a run folder; every file is replaced whole, so a kill leaves no half.

    Args:
        path: Of the folder; made when something is written.
        source: Where the network comes from, to be recorded.

    Raises:
        ValueError: If it is no name, or something other than a folder stands there.
    """

    def __init__(self, path: str | Path, source: Source | None = None) -> None:
        if not str(path).strip():
            raise ValueError(f"a run must be the name of a folder, got {str(path)!r}.")
        self._shown = Path(path)
        self.path = self._shown.absolute()  # the user's code may change the working directory
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"a run must be a folder, got the file {path}; name another path.")
        self._source = source or Source()

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / RECORD).exists()

    def read(self) -> RunRecord:
        """Return the record of the run.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the record is damaged; the message says where.
        """
        path = self.path / RECORD
        if not path.exists():
            raise FileNotFoundError(f"{self._shown} must be a run folder, but has no {RECORD}.")
        return RunRecord.from_json(read_text(path), str(path))

    def check(self, settings: Settings, profile: NetworkProfile, digests: dict[str, str]) -> None:
        """Check that what is searched is what was recorded, if anything was.

        Raises:
            ValueError: If the folder belongs to other settings or to another network; the first
                difference is named.
        """
        if not self.exists():
            return
        record = self.read()
        try:
            record.check_same(settings, profile)
            record.check_weights(digests)
        except ValueError as error:
            raise ValueError(f"{self._shown} {error}, or another run folder.") from error

    def check_writable(self) -> None:
        """Refuse a folder in which nothing can be written; nothing is made for it.

        Raises:
            OSError: If the folder, or the nearest one above it that exists, takes no files.
        """
        nearest = next(at for at in (self.path, *self.path.parents) if os.path.lexists(at))
        if not nearest.is_dir():
            raise unwritten(self.path, OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise unwritten(self.path, OSError(errno.EACCES, os.strerror(errno.EACCES)))

    def check_weights(self, digests: dict[str, str]) -> None:
        """Refuse a network whose weights are not those that were searched.

        Raises:
            ValueError: If they are not; the first layer is named.
        """
        try:
            self.read().check_weights(digests)
        except ValueError as error:
            raise ValueError(f"{self._shown} {error}.") from error

    def trials(self, url: str | None) -> BaseStorage:
        """Return where trials are kept, to go on with; made if it is missing.

        Args:
            url: Of the storage, with its password; None for the journal in the folder.

        Raises:
            ValueError: If the storage cannot be opened or is damaged.
        """
        if url is not None:
            return open_storage(url)
        self._make()
        return open_journal(self.path / JOURNAL)

    def begun_trials(self, url: str | None) -> BaseStorage:
        """Return where the trials of a search that has begun are, to help with it; none are made.

        Args:
            url: Of the storage, as for `storage`.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they are elsewhere than the URL says, or damaged.
            ConnectionError: If the storage has gone.
        """
        with told(url):
            studies = optuna.get_all_study_names(self.storage(url))
        name = self.read().settings.name
        if not any(study.startswith(f"{name}/") for study in studies):
            place = self.path / JOURNAL if url is None else without_password(url)
            raise ValueError(
                f"the trials of {self._shown} must be in {place}, but no study of a search "
                f"{name!r} is there; help from where the search was begun, if that is a relative "
                "path."
            )
        return self.trials(url)

    def begin(
        self,
        settings: Settings,
        profile: NetworkProfile,
        digests: dict[str, str],
        metrics: NetworkMetric,
    ) -> None:
        """Record what is searched; `check` comes before.

        Args:
            settings: Of this call.
            profile: Of the network.
            digests: Layer name -> digest of its weight.
            metrics: That errors are measured in.
        """
        self._make()
        metrics.save(self.path)
        source = self._source
        if source == Source() and self.exists():
            source = self.read().source
        record = RunRecord(settings, profile, digests, metrics.digest, source, versions())
        write_text(self.path / RECORD, record.to_json())

    def storage(self, url: str | None = None) -> BaseStorage:
        """Open the trials for reading alone.

        Args:
            url: Of the storage that they are in, where that is not the folder: a record never
                makes a database be opened, its user does.

        Raises:
            FileNotFoundError: If there are none.
            ValueError: If they are elsewhere than the URL says, or damaged.
        """
        self.check_storage(url)
        return read_journal(self.path / JOURNAL) if url is None else read_storage(url)

    def check_storage(self, url: str | None) -> None:
        """Refuse a URL at which the trials are not.

        Raises:
            ValueError: If they are elsewhere.
        """
        recorded = self.read().settings.storage
        if url is None and recorded is not None:
            raise ValueError(
                f"the trials of {self._shown} are in the database {recorded}; give its URL again, "
                "as `storage=` or `--storage`."
            )
        if url is not None and without_password(url) != recorded:
            raise ValueError(
                f"the trials of {self._shown} are in {recorded or 'the folder itself'}, got the "
                f"storage {without_password(url)}."
            )

    def metric(self) -> NetworkMetric | None:
        """Return the recorded metric, None where nothing was recorded.

        Raises:
            ValueError: If its file is damaged.
            FileNotFoundError: If there is none.
        """
        if not self.exists():
            return None
        digest = self.read().metric
        return NetworkMetric.load(self.path, digest) if digest else NetworkMetric()

    def factors(self, *, keeps: bool = True) -> FactorCache:
        """Return what decomposes weights and remembers it here, or only what is here already."""
        return FactorCache(self.path / FACTORS, keeps=keeps)

    def timetable(self, metrics: NetworkMetric, runtime: str) -> Timetable | None:
        """Return the recorded latencies of a runtime, or None if there are none.

        Raises:
            ValueError: If they are damaged, or not of this network or runtime.
        """
        path = self._latency(runtime)
        if not path.exists():
            return None
        timetable = timetable_record.from_json(read_text(path), str(path))
        if timetable.setting.runtime != runtime:
            raise ValueError(
                f"{path} must hold the latencies of {runtime}, but has those of "
                f"{short(timetable.setting.runtime)!r}."
            )
        missing = {layer.name for layer in self.read().profile.searched} - set(timetable.layers)
        if missing:
            raise ValueError(f"{path} is damaged: it has no layer {min(missing)!r}.")
        try:
            known, found = self.factors(keeps=False), timetable.winners.items()
            winners = {question: plan.within(metrics, known) for question, plan in found}
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        return replace(timetable, winners=winners)

    def scores(self, metrics: NetworkMetric) -> Scores | None:
        """Return the recorded scores, or None if there are none.

        Raises:
            ValueError: If they are damaged.
        """
        path = self.path / SCORES
        if not path.exists():
            return None
        return Scores.from_json(read_text(path), str(path), metrics, self.factors(keeps=False))

    def keep_timetable(self, timetable: Timetable) -> None:
        """Record the latencies."""
        path = self._latency(timetable.setting.runtime)
        write_text(path, timetable_record.to_json(timetable))

    def keep_scores(self, scores: Scores) -> None:
        """Record the scores."""
        self._make()
        write_text(self.path / SCORES, scores.to_json())

    def finish(self, candidates: str, front: str, plan: Plan) -> None:
        """Record the outcome: two tables as CSV, and the best plan."""
        write_text(self.path / CANDIDATES, candidates)
        write_text(self.path / FRONT, front)
        plan.save(self.path / PLAN)

    def _latency(self, runtime: str) -> Path:
        return self.path / (LATENCY if runtime == EAGER else f"latency-{runtime}.json")

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritten(self.path, error) from error
