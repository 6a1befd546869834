"""The search: from a trained network to a result, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from rich.console import Console
from torch import nn

from search.candidates import LayerStudy, replay
from search.clocked import Clock, Trials, check_latency, settle
from search.feasibility import check_feasible
from search.folder import RunFolder, Settings, open_storage
from search.identity import identity, weight_digests
from search.metrics import calibrate, read_metrics, write_metrics
from search.result import SearchResult
from search.samplers import SAMPLERS
from search.space import DEFAULT_FAMILIES, Space
from sekron.budget import Budget
from sekron.moments import Batches
from sekron.profiling import Inputs, LayerProfile, NetworkProfile, profile
from sekron.progress import bar
from sekron.spectrum import Spectra
from sekron.structure import FAMILIES
from sekron.surgery import check_finite, weight_of
from sekron.table import CandidateTable


def run(
    model: nn.Module,
    example_input: Inputs,
    *,
    budget: Budget,
    n_trials: int = 50,
    max_sequence_length: int = 3,
    families: Sequence[str] = DEFAULT_FAMILIES,
    sampler: str = "neighbour",
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    run: str | Path | None = None,
    storage: str | None = None,
    name: str | None = None,
    seed: int = 0,
    measure_seconds: float = 60.0,
    keep_latency: bool = False,
    n_network_trials: int = 30,
    calibration: Batches | None = None,
    progress: bool = True,
    source: tuple[str, str, tuple[int, ...]] = ("", "", ()),
) -> SearchResult:
    """Search the factorization of every layer, and choose among them under a budget.

    Per layer, all structures that keep every mode whole are enumerated, then one Optuna study
    proposes others; each brings all its ranks with their exact errors. The choice across layers
    is an integer program solved to the proof.

    Args:
        model: A trained network; never modified.
        example_input: What its forward takes; a tensor `(batch, …)` or a tuple of arguments.
        budget: Of the whole network.
        n_trials: Structures proposed per layer, besides the enumerated ones.
        max_sequence_length: Most factors of a structure, at least 2.
        families: Names from `sekron.structure.FAMILIES`.
        sampler: One of `neighbour`, `tpe`, `nsga2`, `random`.
        include: Patterns of the layers to search; default all but the first convolution and the
            last linear layer.
        exclude: Patterns of layers to leave dense.
        run: Folder that keeps everything; a later call with it goes on where this one ended.
        storage: Optuna storage URL; default a journal in the run folder, or memory without one.
        name: Prefix of the studies' names, for a storage that several searches share.
        seed: Of the samplers; same seed, same trials, and without a clock the same plan.
        measure_seconds: Limit of the time for measuring layers, and again for measuring whole
            networks; 0 measures nothing, which a budget of latency does not allow.
        keep_latency: Whether to use latencies in the run folder that were measured on another
            machine or in another setting.
        n_network_trials: Whole plans that an Optuna study tries around the exact ones, where
            latency is limited and so not everything is additive.
        calibration: Unlabelled batches of images. Errors are then measured, and weights
            decomposed, in a metric of what goes through the network and of what its output
            depends on; a run folder keeps it.
        progress: Whether to show a progress bar on stderr.
        source: Where the command line got the model, its weights and the input shape from; kept
            in the run folder so that `sekron apply` can make the model again.

    Returns:
        The result.

    Raises:
        InfeasibleBudget: Before anything is searched, if no plan can fit; afterwards, if none
            holds the latency on the clock.
        ValueError: If an argument is out of range, a weight is not finite, the example does not
            run, there is nothing to replace, or the folder belongs to another search.
    """
    _check_choices(n_trials, max_sequence_length, families, sampler)
    if n_network_trials < 0:
        raise ValueError(f"`n_network_trials` must be at least 0, got {n_network_trials}.")
    if not measure_seconds >= 0 or (measure_seconds == 0 and budget.is_clocked):
        raise ValueError(
            f"`measure_seconds` must be positive where latency is limited, else at least 0, "
            f"got {measure_seconds} for {budget}."
        )
    settings = Settings(
        max_sequence_length=max_sequence_length,
        families=tuple(sorted(families, key=lambda name: name == "cp")),
        sampler=sampler,
        seed=seed,
        n_trials=n_trials,
        include=None if include is None else tuple(include),
        exclude=None if exclude is None else tuple(exclude),
        storage=storage,
        name=name or "sekron",
        model=source[0],
        weights=source[1],
        input_shape=source[2],
        calibrated=calibration is not None,
        budget=budget,
    )
    folder = None if run is None else RunFolder(run)
    clock = Clock(measure_seconds, keep_latency, n_network_trials)
    return search(model, example_input, settings, folder, clock, calibration, progress)


def search(
    model: nn.Module,
    example_input: Inputs,
    settings: Settings,
    folder: RunFolder | None,
    clock: Clock,
    calibration: Batches | None,
    progress: bool,
) -> SearchResult:
    """Run a search from its settings; what `run` does once its arguments are checked."""
    budget = settings.budget
    measured = profile(model, example_input, settings.include, settings.exclude)
    if not measured.searched:
        reasons = "; ".join(f"{layer.name}: {layer.reason}" for layer in measured.layers)
        raise ValueError(f"the network has nothing to replace: {reasons or 'it has no layers'}.")
    check_finite(model, [layer.name for layer in measured.searched])
    spaces = _spaces(measured, settings)
    check_feasible(budget, measured, spaces)
    digests = weight_digests(model, measured)
    if folder is not None:
        folder.check(settings, measured, digests)
    stopwatch, timetable = clock.begin(model, example_input, measured, folder)
    if timetable is not None:
        check_latency(budget, timetable, measured)
    names = [layer.name for layer in measured.searched]
    metrics = calibrate(model, names, calibration, None if folder is None else folder.path)
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
            Spectra(weight_of(model, layer.name), layer.calls, metrics.get(layer.name)),
            spaces[layer.name],
            sampler=settings.sampler,
            seed=settings.seed,
            storage=storage,
        )

    keys = {x.name: identity(x, digests, settings.calibrated) for x in measured.searched}
    with _quiet_optuna():
        tables = _search_layers(measured.searched, keys, study, settings.n_trials, progress)
    result = SearchResult(measured, tables, budget, timetable, metrics)
    if stopwatch is not None:
        with (
            _quiet_optuna(),
            Console(stderr=True, quiet=not progress).status("measuring") as status,
        ):
            result = settle(
                result,
                stopwatch,
                clock.seconds,
                Trials(clock.n_trials, storage, settings.name, settings.seed),
                lambda filled: None if folder is None else folder.write_timetable(filled),
                lambda what: status.update(f"measuring {what}"),
            )
    if folder is not None:
        folder.write("candidates.csv", result.candidates().to_csv(index=False))
        folder.write("front.csv", result.pareto_front().drop(columns="plan").to_csv(index=False))
        folder.write("plan.json", result.best.to_json() + "\n")
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


def load(run: str | Path) -> SearchResult:
    """Return the result of a run folder, without the model and without searching.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, or its search has not finished.
    """
    folder = RunFolder(run)
    settings, measured, digests = folder.read()
    storage = folder.storage() if settings.storage is None else open_storage(settings.storage)
    spaces = _spaces(measured, settings)
    metrics = {}
    if settings.calibrated:
        metrics = read_metrics([layer.name for layer in measured.searched], folder.path)
    tables: dict[str, CandidateTable] = {}
    done: dict[tuple[object, ...], CandidateTable] = {}
    with _quiet_optuna():
        studies = set(optuna.get_all_study_names(storage))
        for layer in measured.searched:
            key = identity(layer, digests, settings.calibrated)
            if key not in done:
                study_name = f"{settings.name}/{layer.name}"
                metric = metrics.get(layer.name)
                done[key] = CandidateTable.within(metric, layer.flops, layer.params)
                n_proposed = -1
                if study_name in studies:
                    study = optuna.load_study(study_name=study_name, storage=storage)
                    n_proposed = replay(study, spaces[layer.name], layer.calls, done[key], {})
                if n_proposed < settings.n_trials:
                    raise ValueError(
                        f"{run} must hold a finished search, but layer {layer.name!r} has "
                        f"{max(n_proposed, 0)} of {settings.n_trials} trials; "
                        "run the same search again, it goes on."
                    )
            tables[layer.name] = done[key]
    result = SearchResult(measured, tables, settings.budget, folder.timetable(), metrics)
    if result.timetable is None or result.key in result.timetable.winners:
        return result
    if settings.budget.is_clocked:
        raise ValueError(
            f"{run} must hold a finished search, but its plan was not measured yet; "
            "run the same search again, it goes on."
        )
    return replace(result, timetable=None)  # the last search did not look at the clock


def _spaces(measured: NetworkProfile, settings: Settings) -> dict[str, Space]:
    return {
        layer.name: Space(layer.weight_shape, settings.max_sequence_length, settings.families)
        for layer in measured.searched
    }


def _check_choices(
    n_trials: int, max_sequence_length: int, families: Sequence[str], sampler: str
) -> None:
    if n_trials < 0:
        raise ValueError(f"`n_trials` must be at least 0, got {n_trials}.")
    if max_sequence_length < 2:
        raise ValueError(f"`max_sequence_length` must be at least 2, got {max_sequence_length}.")
    if not families or any(family not in FAMILIES for family in families):
        raise ValueError(
            f"`families` must be some of {', '.join(FAMILIES)}, got {tuple(families)}."
        )
    if sampler not in SAMPLERS:
        raise ValueError(f"`sampler` must be one of {', '.join(SAMPLERS)}, got {sampler!r}.")


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """One line per trial would drown the progress bar."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
