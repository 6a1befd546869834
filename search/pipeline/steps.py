"""The steps of a search: from a trained network to a result, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from rich.console import Console
from torch import nn

from search.clock.stopwatch import Stopwatch
from search.clock.timetable import Timetable
from search.folder.run_folder import RunFolder, Settings, open_storage
from search.front.result import SearchResult
from search.per_layer.identity import identity, weight_digests
from search.per_layer.space import Space
from search.per_layer.study import LayerStudy
from search.pipeline.calibrate import calibrate, write_metrics
from search.pipeline.feasibility import check_feasible
from search.whole_network.by_score import settle_score
from search.whole_network.judge import Judge, Score
from search.whole_network.trials import Clock, Trials, check_latency
from search.whole_network.within_latency import admission, settle
from sekron.decomposition.decompose import EXACT
from sekron.forward import Batches
from sekron.network.surgery import check_finite, weight_of
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.profile import Inputs, profile
from sekron.progress import bar
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable

SHOWN = 6
"""Layers of which an error tells why they stay dense."""


def search(
    model: nn.Module,
    example_input: Inputs,
    settings: Settings,
    folder: RunFolder | None,
    clock: Clock,
    calibration: Batches | None,
    score: Score | None,
    progress: bool,
) -> SearchResult:
    """Run a search from its settings; what `run` does once its arguments are checked."""
    budget = settings.budget
    measured = profile(model, example_input, settings.include, settings.exclude, settings.min_share)
    if not measured.searched:
        raise ValueError(f"the network has nothing to replace: {_reasons(measured)}.")
    check_finite(model, [layer.name for layer in measured.searched])
    spaces = spaces_of(measured, settings)
    check_feasible(budget, measured, spaces, settings.rank_multiple)
    digests = weight_digests(model, measured)
    if folder is not None:
        folder.check(settings, measured, digests)
    judge = None if score is None else Judge(model, score, calibration, folder)
    if judge is not None:
        judge.check(budget)
    stopwatch, timetable = clock.begin(model, example_input, measured, folder)
    if timetable is not None:
        check_latency(budget, timetable, measured)
    metrics = calibrate(model, measured, calibration, None if folder is None else folder.path)
    storage: BaseStorage = InMemoryStorage()
    if settings.storage is not None:
        storage = open_storage(settings.storage)
    if folder is not None:
        folder.begin(settings, measured, digests)
        if metrics:
            write_metrics(metrics, folder.path)
        storage = storage if settings.storage is not None else folder.storage()

    def study(layer: LayerProfile) -> LayerStudy:
        return LayerStudy(
            f"{settings.name}/{layer.name}",
            Spectra(
                weight_of(model, layer.name),
                layer.calls,
                metrics.get(layer.name),
                settings.rank_multiple,
            ),
            spaces[layer.name],
            sampler=settings.sampler,
            seed=settings.seed,
            storage=storage,
        )

    keys = {x.name: identity(x, digests, settings.calibrated) for x in measured.searched}
    with quiet_optuna():
        tables = _search_layers(measured.searched, keys, study, settings.n_trials, progress)
    result = SearchResult(measured, tables, budget, timetable, metrics)
    trials = Trials(clock.n_trials, storage, settings.name, settings.seed)
    with quiet_optuna(), Console(stderr=True, quiet=not progress).status("") as status:
        result = _settled(result, stopwatch, judge, clock, trials, folder, status.update)
    if folder is not None:
        folder.write("candidates.csv", result.candidates().to_csv(index=False))
        folder.write("front.csv", result.pareto_front().drop(columns="plan").to_csv(index=False))
        folder.write("plan.json", result.best.to_json() + "\n")
    return result


def _reasons(measured: NetworkProfile) -> str:
    """Say why layers are left dense, of the first few."""
    reasons = [f"{layer.name}: {layer.reason}" for layer in measured.layers]
    if len(reasons) > SHOWN:
        reasons[SHOWN:] = [f"and {len(reasons) - SHOWN} more, see `sekron layers`"]
    return "; ".join(reasons) or "it has no layers"


def _settled(
    result: SearchResult,
    stopwatch: Stopwatch | None,
    judge: Judge | None,
    clock: Clock,
    trials: Trials,
    folder: RunFolder | None,
    say: Callable[[str], None],
) -> SearchResult:
    """Return the result with the plan that holds the budget: by the clock, then by the score."""

    def save(filled: Timetable) -> None:
        if folder is not None:
            folder.write_timetable(filled)

    if stopwatch is not None:
        budget = result.budget
        unscored = replace(result, budget=replace(budget, min_score=None))
        unscored = settle(
            unscored, stopwatch, clock.seconds, trials, save, lambda what: say(f"measuring {what}")
        )
        result = replace(unscored, budget=budget)
    if judge is not None:
        admits = admission(result, stopwatch)
        result = settle_score(result, judge, admits, trials, lambda what: say(f"scoring {what}"))
        if result.timetable is not None:
            save(result.timetable)
    return result


def _search_layers(
    layers: Sequence[LayerProfile],
    keys: dict[str, tuple[object, ...]],
    study: Callable[[LayerProfile], LayerStudy],
    n_trials: int,
    progress: bool,
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates; layers of one key are searched once."""
    done: dict[tuple[object, ...], CandidateTable] = {}
    with bar(progress) as shown:
        task = shown.add_task("search", total=len(layers))
        for layer in layers:
            shown.update(task, description=layer.name)
            if keys[layer.name] not in done:
                own = study(layer)
                steps = len(own.space.templates()) + n_trials
                own.run(n_trials, on_trial=partial(shown.advance, task, 1 / steps))
                done[keys[layer.name]] = own.table
            else:
                shown.advance(task)
    return {layer.name: done[keys[layer.name]] for layer in layers}


def spaces_of(measured: NetworkProfile, settings: Settings) -> dict[str, Space]:
    """Return layer name -> its structures.

    What is fitted rank by rank takes as many times as long as a convolution has groups: there only
    the exact families are searched, if any is.
    """
    exact = tuple(family for family in settings.families if family in EXACT)
    return {
        layer.name: Space(
            layer.block_shape,
            settings.max_sequence_length,
            exact if exact and layer.groups > 1 else settings.families,
        )
        for layer in measured.searched
    }


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """One line per trial would drown the progress bar."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
