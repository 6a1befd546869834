"""A finished search, read from its folder: the same stages, from what was recorded."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from search.folder.recorder import timetables_beside
from search.folder.run_folder import RunFolder
from search.folder.run_record import RunRecord
from search.folder.storage import told
from search.front.beside import winner, winner_by_score, winner_on_clock
from search.front.choices import Choices
from search.front.result import SearchResult
from search.per_layer.depth import n_trials_of
from search.pipeline.search import quiet_optuna
from search.pipeline.stages import (
    layers_done,
    recorded_table,
    spaces_of,
    study_name,
    tables_of,
)
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable


def load(run: str | Path, storage: str | None = None, *, needs_best: bool = True) -> SearchResult:
    """Return the result of a run folder, without the model and without searching.

    Nothing is written, so that a folder may lie where nothing can be.

    Args:
        run: The folder.
        storage: URL of the Optuna storage that the search was given, if it was.
        needs_best: Whether to refuse a search that has no plan for its budget, since its layers
            are not all searched, none was found, or it was not measured or scored yet; else its
            best plan is the best by error of what is there, or the dense network where nothing
            holds the budget.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, its search has not finished and `needs_best`, or its trials
            are in a storage that is not given.
    """
    if not needs_best:
        return load_so_far(run, storage)[0]
    result, lacks = load_searched(run, storage)
    check_best(run, lacks)
    return result


def load_searched(run: str | Path, storage: str | None = None) -> tuple[SearchResult, list[str]]:
    """Return what a run folder holds whose layers are searched, and what its best plan lacks.

    Args:
        run: The folder.
        storage: As for `load`.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: As `load` does by default, but where only the best plan is missing.
    """
    result, of_trials, of_best = _read(run, storage)
    if of_trials:
        raise ValueError(
            f"{run} must hold a finished search, but {of_trials[0]}; run the same search again, it "
            "goes on."
        )
    return result, of_best


def check_best(run: str | Path, lacks: list[str]) -> None:
    """Refuse a search without the plan that it was for.

    Args:
        run: The folder.
        lacks: What that plan lacks, as of `load_searched`.

    Raises:
        ValueError: If there is something.
    """
    if lacks:
        raise ValueError(
            f"{run} must hold a finished search, but {lacks[0]}; run the same search again, it "
            "goes on, or take what is there, a plan of the front or for another budget: in Python "
            "with `needs_best=False`."
        )


def load_so_far(run: str | Path, storage: str | None = None) -> tuple[SearchResult, list[str]]:
    """Return what a run folder holds by now, and what its search lacks to be finished.

    The best plan of an unfinished search is the best by error of what is there, or the dense
    network where nothing there holds the budget.

    Args:
        run: The folder.
        storage: As for `load`.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, or its trials are in a storage that is not given.
    """
    result, of_trials, of_best = _read(run, storage)
    return result, of_trials + of_best


def _read(run: str | Path, storage: str | None) -> tuple[SearchResult, list[str], list[str]]:
    """Return what a run folder holds, what its layers lack, and what its best plan does."""
    folder = RunFolder(run)
    record = folder.read()
    budget, metrics = record.settings.budget, folder.metric() or NetworkMetric()
    with quiet_optuna(), told(storage):
        tables, of_trials = _recorded_tables(record, metrics, folder.storage(storage))
    # What an earlier search measured or scored is not what the last one was asked for.
    scores = folder.scores(metrics) if record.settings.is_scored else None
    timetable, beside, runtime = None, {}, record.settings.runtime
    if record.settings.is_timed:
        timetable = folder.timetable(metrics, runtime)
        beside = timetables_beside(folder, metrics, runtime)
    choices = Choices(record.profile, tables, metrics, timetable, folder.factors(keeps=False))
    by_score = winner_by_score(choices, budget, scores)
    on_clock = winner_on_clock(choices, budget)
    of_best = []
    if by_score is None and (record.settings.is_scored or budget.min_score is not None):
        of_best.append("its plan was not scored yet")
    if on_clock is None and (record.settings.is_timed or budget.is_clocked):
        of_best.append("its plan was not measured yet")
    best = winner(choices, budget, scores)
    try:
        best = choices.best(budget) if best is None else best
    except ValueError:  # nothing fits, or nothing was measured
        best = Plan({}, metrics=metrics)
        if not of_trials + of_best:
            of_best.append(f"none of its plans holds {budget}")
    return SearchResult(choices, budget, best, scores, beside), of_trials, of_best


def _recorded_tables(
    record: RunRecord, metrics: NetworkMetric, storage: BaseStorage
) -> tuple[dict[str, CandidateTable], list[str]]:
    """Return layer name -> candidates from the trials in a storage, and what is missing of them."""
    settings, spaces = record.settings, spaces_of(record.profile, record.settings)
    studies, lacks = set(optuna.get_all_study_names(storage)), []
    # Proposals come after all templates; without any, only its worker knows that a layer is done.
    done = frozenset() if settings.n_trials else layers_done(settings, record.profile, storage)

    def table_of(layer: LayerProfile) -> CandidateTable:
        space, metric = spaces[layer.name], metrics.get(layer.name)
        table = CandidateTable.within(metric, layer.flops, layer.params, layer.groups)
        n_proposed = 0
        if study_name(settings, layer) in studies:
            table, n_proposed = recorded_table(settings, layer, space, metrics, storage)
        n_trials = n_trials_of(layer, record.profile, settings.n_trials)
        if n_proposed < n_trials:
            lacks.append(f"layer {layer.name!r} has {n_proposed} of {n_trials} trials")
        elif not n_proposed and layer.name not in done:
            lacks.append(f"layer {layer.name!r} has not all of its templates yet")
        return table

    return tables_of(record.profile, record.weights, settings.calibrated, table_of), lacks
