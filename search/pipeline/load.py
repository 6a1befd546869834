"""A finished search, read from its folder: the same stages, from what was recorded."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from search.folder.run_folder import RunFolder
from search.folder.run_record import RunRecord
from search.front.choices import Choices
from search.front.result import SearchResult
from search.per_layer.depth import n_trials_of
from search.per_layer.study import replay
from search.pipeline.search import quiet_optuna
from search.pipeline.stages import spaces_of, study_name, tables_of
from sekron.network.network_metric import NetworkMetric
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable


def load(run: str | Path, storage: str | None = None) -> SearchResult:
    """Return the result of a run folder, without the model and without searching.

    Nothing is written, so that a folder may lie where nothing can be.

    Args:
        run: The folder.
        storage: URL of the Optuna storage that the search was given, if it was.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, its search has not finished, or its trials are in a storage
            that is not given.
    """
    folder = RunFolder(run)
    record = folder.read()
    budget, metrics = record.settings.budget, folder.metric() or NetworkMetric()
    with quiet_optuna():
        tables = _recorded_tables(run, record, metrics, folder.storage(storage))
    choices = Choices(record.profile, tables, metrics)
    # What an earlier search measured or scored is not what the last one was asked for.
    scores = folder.scores(metrics) if record.settings.is_scored else None
    timetable = folder.timetable(metrics) if record.settings.is_timed else None
    if scores is None or choices.question(budget) not in scores.winners:
        if budget.min_score is not None:
            raise _unfinished(run, "its plan was not scored yet")
        scores = None  # it was stopped before
    if timetable is None or choices.question(budget.limits) not in timetable.winners:
        if budget.is_clocked:
            raise _unfinished(run, "its plan was not measured yet")
        timetable = None  # it was stopped before
    choices = choices.retimed(timetable)
    if scores is not None:
        best = scores.winners[choices.question(budget)]
    elif timetable is not None:
        best = timetable.winners[choices.question(budget.limits)]
    else:
        best = choices.best(budget)
    return SearchResult(choices, budget, best, scores)


def _recorded_tables(
    run: str | Path, record: RunRecord, metrics: NetworkMetric, storage: BaseStorage
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates from the trials in a storage."""
    settings, spaces = record.settings, spaces_of(record.profile, record.settings)
    studies = set(optuna.get_all_study_names(storage))

    def table_of(layer: LayerProfile) -> CandidateTable:
        table = CandidateTable.within(
            metrics.get(layer.name), layer.flops, layer.params, layer.groups
        )
        n_proposed = -1
        if study_name(settings, layer) in studies:
            study = optuna.load_study(study_name=study_name(settings, layer), storage=storage)
            n_proposed = replay(study, spaces[layer.name], layer.calls, table, {})
        n_trials = n_trials_of(layer, record.profile, settings.n_trials)
        if n_proposed < n_trials:
            lack = f"{max(n_proposed, 0)} of {n_trials} trials"
            raise _unfinished(run, f"layer {layer.name!r} has {lack}")
        return table

    return tables_of(record.profile, record.weights, settings.calibrated, table_of)


def _unfinished(run: str | Path, lack: str) -> ValueError:
    return ValueError(
        f"{run} must hold a finished search, but {lack}; run the same search again, it goes on."
    )
