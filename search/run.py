"""The search: from a trained network to a result, layer by layer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from optuna.storages import BaseStorage, InMemoryStorage
from rich.console import Console
from torch import Tensor, nn

from search.candidates import LayerStudy, replay
from search.clocked import Clock, Trials, check_latency, settle
from search.feasibility import check_feasible
from search.folder import RunFolder, Settings, open_storage
from search.result import SearchResult
from search.samplers import SAMPLERS
from search.space import DEFAULT_FAMILIES, Space
from sekron.budget import Budget
from sekron.profiling import Inputs, LayerProfile, NetworkProfile, profile
from sekron.progress import bar
from sekron.spectrum import Spectra
from sekron.structure import FAMILIES
from sekron.surgery import check_finite
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
        families=tuple(families),
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
        budget=budget,
    )
    folder = None if run is None else RunFolder(run)
    clock = Clock(measure_seconds, keep_latency, n_network_trials)
    return search(model, example_input, settings, folder, clock, progress)


def search(
    model: nn.Module,
    example_input: Inputs,
    settings: Settings,
    folder: RunFolder | None,
    clock: Clock,
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
    storage: BaseStorage = InMemoryStorage()
    if settings.storage is not None:
        storage = open_storage(settings.storage)
    if folder is not None:
        folder.begin(settings, measured, digests)
        storage = storage if settings.storage is not None else folder.storage()
    tables: dict[str, CandidateTable] = {}
    done: dict[tuple[object, ...], CandidateTable] = {}
    with _quiet_optuna(), bar(progress) as shown:
        task = shown.add_task("search", total=None)
        totals = [len(spaces[x.name].templates()) + settings.n_trials for x in measured.searched]
        shown.update(task, total=sum(totals))
        for layer, total in zip(measured.searched, totals, strict=True):
            shown.update(task, description=layer.name)
            # Layers with the same weight and cost, tied or copied, are searched once.
            key = (digests[layer.name], layer.calls)
            if key in done:
                shown.advance(task, total)
            else:
                study = LayerStudy(
                    f"{settings.name}/{layer.name}",
                    Spectra(_weight(model, layer), layer.calls),
                    spaces[layer.name],
                    sampler=settings.sampler,
                    seed=settings.seed,
                    storage=storage,
                )
                study.run(settings.n_trials, on_trial=lambda: shown.advance(task))
                done[key] = study.table
            tables[layer.name] = done[key]
    result = SearchResult(measured, tables, budget, timetable)
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
    tables: dict[str, CandidateTable] = {}
    done: dict[tuple[object, ...], CandidateTable] = {}
    with _quiet_optuna():
        studies = set(optuna.get_all_study_names(storage))
        for layer in measured.searched:
            key = (digests[layer.name], layer.calls)
            if key not in done:
                study_name = f"{settings.name}/{layer.name}"
                done[key] = CandidateTable(layer.flops, layer.params)
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
    result = SearchResult(measured, tables, settings.budget, folder.timetable())
    if result.timetable is None or result.key in result.timetable.winners:
        return result
    if settings.budget.is_clocked:
        raise ValueError(
            f"{run} must hold a finished search, but its plan was not measured yet; "
            "run the same search again, it goes on."
        )
    return replace(result, timetable=None)  # the last search did not look at the clock


def digest(weight: Tensor) -> str:
    """Return a digest of a weight's shape, type and numbers."""
    data = weight.detach().cpu().contiguous()
    head = f"{tuple(data.shape)} {data.dtype}".encode()
    numbers = data.flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(head + numbers).hexdigest()


def weight_digests(model: nn.Module, measured: NetworkProfile) -> dict[str, str]:
    """Return layer name -> digest of its weight, for the searched layers."""
    return {layer.name: digest(_weight(model, layer)) for layer in measured.searched}


def _weight(model: nn.Module, layer: LayerProfile) -> Tensor:
    weight = model.get_submodule(layer.name).weight
    assert isinstance(weight, Tensor)
    return weight


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
