"""A finished search, read from its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna

from search.folder.run_folder import RunFolder, open_storage
from search.folder.scores import recorded
from search.front.result import SearchResult
from search.per_layer.identity import identity
from search.per_layer.study import replay
from search.pipeline.calibrate import read_metrics
from search.pipeline.steps import quiet_optuna, spaces_of
from sekron.rank_curves.table import CandidateTable


def load(run: str | Path) -> SearchResult:
    """Return the result of a run folder, without the model and without searching.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, or its search has not finished.
    """
    folder = RunFolder(run)
    settings, measured, digests = folder.read()
    storage = folder.storage() if settings.storage is None else open_storage(settings.storage)
    spaces = spaces_of(measured, settings)
    metrics = {}
    if settings.calibrated:
        metrics = read_metrics([layer.name for layer in measured.searched], folder.path)
    tables: dict[str, CandidateTable] = {}
    done: dict[tuple[object, ...], CandidateTable] = {}
    with quiet_optuna():
        studies = set(optuna.get_all_study_names(storage))
        for layer in measured.searched:
            key = identity(layer, digests, settings.calibrated)
            if key not in done:
                study_name = f"{settings.name}/{layer.name}"
                metric = metrics.get(layer.name)
                done[key] = CandidateTable.within(metric, layer.flops, layer.params, layer.groups)
                n_proposed = -1
                if study_name in studies:
                    study = optuna.load_study(study_name=study_name, storage=storage)
                    n_proposed = replay(study, spaces[layer.name], layer.calls, done[key], {})
                if n_proposed < settings.n_trials:
                    lack = f"{max(n_proposed, 0)} of {settings.n_trials} trials"
                    raise _unfinished(run, f"layer {layer.name!r} has {lack}")
            tables[layer.name] = done[key]
    budget, scores, timetable = settings.budget, recorded(folder), folder.timetable()
    result = SearchResult(measured, tables, budget, timetable, metrics, scores)
    if scores is None or result.key not in scores.winners:
        if budget.min_score is not None:
            raise _unfinished(run, "its plan was not scored yet")
        result = replace(result, scores=None)  # the last search did not score
    on_clock = replace(result, budget=replace(budget, min_score=None))
    if timetable is None or on_clock.key not in timetable.winners:
        if budget.is_clocked:
            raise _unfinished(run, "its plan was not measured yet")
        result = replace(result, timetable=None)  # the last search did not look at the clock
    return result


def _unfinished(run: str | Path, lack: str) -> ValueError:
    return ValueError(
        f"{run} must hold a finished search, but {lack}; run the same search again, it goes on."
    )
