"""The command line: layers, search, front, apply, compare, and funnel from a file of its own."""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import nn

import baselines
from search.cli.arguments import (
    Input,
    Latency,
    Limit,
    Milliseconds,
    MinScore,
    MinShare,
    Model,
    Patterns,
    Run,
    Speedup,
    Weights,
    budget_of,
)
from search.cli.funnel import funnel
from search.cli.sources import load_images, load_model, load_score, parse_shape
from search.clock.race import compare as race_networks
from search.folder.run_folder import RunFolder, Settings
from search.front.frames import layers_frame
from search.front.result import SearchResult
from search.per_layer.identity import weight_digests
from search.pipeline.load import load
from search.pipeline.run import run as run_search
from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.network.checkpoint import save
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile

app = typer.Typer(
    help="Search tensor factorizations that make a trained network smaller and faster.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command()(funnel)


@app.command()
def layers(
    model: Model,
    input_shape: Input,
    weights: Weights = "",
    include: Patterns = None,
    exclude: Patterns = None,
    min_share: MinShare = 0.0,
) -> None:
    """List every layer with its cost, and why it would stay dense."""
    network = load_model(model, weights)
    measured = profile(network, _example(input_shape), include, exclude, min_share)
    frame = layers_frame(measured)
    _print(frame[["layer", "kind", "weight_shape", "flops_share", "params_share", "reason"]])
    _say(f"{measured.flops:,} FLOPs, {measured.params:,} parameters")
    _warn_unsupported(measured.unsupported)


@app.command()
def search(
    model: Model,
    input_shape: Input,
    run: Annotated[str, typer.Option(help="Folder that keeps everything; made if missing.")],
    weights: Weights = "",
    flops: Limit = None,
    params: Limit = None,
    latency: Latency = None,
    latency_ms: Milliseconds = None,
    speedup: Speedup = None,
    min_score: MinScore = None,
    include: Patterns = None,
    exclude: Patterns = None,
    min_share: MinShare = 0.0,
    rank_multiple: Annotated[int, typer.Option(help="Of which all ranks are multiples.")] = 1,
    trials: Annotated[int, typer.Option(help="Proposals per layer.")] = 50,
    max_length: Annotated[int, typer.Option(help="Most factors in a sequence.")] = 3,
    sampler: Annotated[str, typer.Option(help="neighbour, tpe, nsga2 or random.")] = "neighbour",
    storage: Annotated[str | None, typer.Option(help="Optuna storage URL.")] = None,
    seed: int = 0,
    calibration: Annotated[
        str, typer.Option(help="Unlabelled images: a file with one tensor.")
    ] = "",
    score: Annotated[str, typer.Option(help="module:attribute of a function of a network.")] = "",
    network_trials: Annotated[
        int, typer.Option(help="Whole plans tried where latency is limited or there is a score.")
    ] = 30,
    measure_seconds: Annotated[
        float, typer.Option(help="Limit for measuring layers, and again for networks; 0: none.")
    ] = 60.0,
    keep_latency: Annotated[
        bool, typer.Option("--keep-latency", help="Use latencies of another machine or setting.")
    ] = False,
) -> None:
    """Search a network under a budget; the same command on the same folder goes on."""
    budget = budget_of(flops, params, latency, latency_ms, speedup, min_score)
    network = load_model(model, weights)
    shape = parse_shape(input_shape)
    result = run_search(
        network,
        _example(input_shape),
        budget=budget,
        n_trials=trials,
        max_sequence_length=max_length,
        include=include,
        exclude=exclude,
        min_share=min_share,
        rank_multiple=rank_multiple,
        sampler=sampler,
        run=run,
        storage=storage,
        seed=seed,
        measure_seconds=measure_seconds,
        keep_latency=keep_latency,
        calibration=load_images(calibration) if calibration else None,
        score=load_score(score) if score else None,
        n_network_trials=network_trials,
        source=(model, weights, shape),
    )
    _warn_unsupported(result.profile.unsupported)
    _print_front(result)
    _say(f"best plan for {budget}: {run}/plan.json")


@app.command()
def front(run: Run, csv: Annotated[bool, typer.Option(help="Print CSV.")] = False) -> None:
    """Print the Pareto front of a finished search."""
    result = load(run)
    if csv:
        sys.stdout.write(result.pareto_front().drop(columns="plan").to_csv(index=False))
    else:
        _print_front(result)


@app.command()
def apply(
    run: Run,
    output: Annotated[str, typer.Option(help="File to write: weights and plan.")],
    flops: Limit = None,
    params: Limit = None,
    latency: Latency = None,
    latency_ms: Milliseconds = None,
    speedup: Speedup = None,
) -> None:
    """Write the compressed network for the budget of the search, or for another one."""
    settings, result, network = _opened(run, "`search.load(run).best.apply(model)`")
    other = budget_of(flops, params, latency, latency_ms, speedup)
    budget = result.budget if other == Budget() else other
    plan = result.best if other == Budget() else result.plan(other)
    small = plan.apply(network)
    counted, unsupported = count_flops(small, (torch.zeros(1, *settings.input_shape[1:]),))
    save(small, output)
    totals = result.profile.totals(plan)
    _say(
        f"{output}: {len(plan)} layers replaced, {counted:,} FLOPs "
        f"({counted / result.profile.flops:.1%}), {totals['params']:,} parameters "
        f"({totals['params'] / result.profile.params:.1%}), for {budget}"
    )
    _warn_unsupported(unsupported)


@app.command()
def compare(
    run: Run,
    flops: Limit = None,
    params: Limit = None,
    max_seconds: Annotated[
        float, typer.Option(help="Limit for the candidates of each method.")
    ] = 600.0,
    csv: Annotated[bool, typer.Option(help="Print CSV.")] = False,
) -> None:
    """Compare with TT, TR, CP, Tucker and others at the budget of the search, or at another one.

    Where the budget limits latency alone, the FLOPs of the plan that holds it are the budget.
    """
    settings, result, network = _opened(run, "`baselines.compare`")
    budget = budget_of(flops, params, None, None, None)
    if budget == Budget():
        budget = Budget(flops=result.budget.flops, params=result.budget.params)
    if budget == Budget():
        budget = Budget(flops=result.profile.totals(result.best)["flops"])
    example = _example("x".join(map(str, settings.input_shape)))

    def clock(dense: nn.Module, small: nn.Module) -> tuple[float, float]:
        timed = race_networks(dense, small, example)
        return timed.second.median_ms, timed.ratio

    frame = baselines.compare(
        network,
        example,
        budget,
        plans={"sekron": result.plan},
        clock=None if result.timetable is None else clock,
        include=settings.include,
        exclude=settings.exclude,
        max_seconds=max_seconds,
        output=f"{run}/comparison.csv",
    )
    frame = frame[frame["budget"] == str(budget)].sort_values("error")
    if frame["flops"].isna().all():
        raise InfeasibleBudget(f"the budget must be reachable, got {budget}; nothing reaches it.")
    frame = frame.drop(columns=["budget", *RESOURCES]).dropna(axis="columns", how="all")
    if csv:
        sys.stdout.write(frame.to_csv(index=False))
    else:
        _say(f"{budget}, least error first")
        _print(frame)


def main() -> None:
    """Run the command line; an error or a warning is one line, an error exits with code 2."""
    warnings.showwarning = lambda message, *_: _complain(str(message))
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        _complain(str(error))
        sys.exit(2)


def _opened(run: str, instead: str) -> tuple[Settings, SearchResult, nn.Module]:
    """Return a run's settings, its result, and the network that was searched."""
    folder = RunFolder(run)
    settings, measured, recorded = folder.read()
    if not settings.model:
        raise ValueError(
            f"{run} was searched from Python, so its model is not known here; use {instead}."
        )
    network = load_model(settings.model, settings.weights)
    folder.check_weights(recorded, weight_digests(network, measured))
    return settings, load(run), network


def _example(shape: str) -> torch.Tensor:
    return torch.randn(parse_shape(shape), generator=torch.Generator().manual_seed(0))


def _print_front(result: SearchResult) -> None:
    frame = result.pareto_front()
    frame.insert(1, "layers", [len(plan) for plan in frame["plan"]])
    _print(frame.drop(columns=["plan", *RESOURCES]))  # the ratios say it, and fit a terminal


def _print(frame: pd.DataFrame) -> None:
    table = Table(box=None, header_style="bold")
    for column in frame.columns:
        right = pd.api.types.is_numeric_dtype(frame[column])
        table.add_column(str(column), justify="right" if right else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(
        f"sekron: {' '.join(text.split())}"
    )


def _say(text: str) -> None:
    Console(soft_wrap=True, markup=False, highlight=False).print(text)


def _warn_unsupported(unsupported: dict[str, int]) -> None:
    if unsupported:
        names = ", ".join(f"{name} ({count}×)" for name, count in sorted(unsupported.items()))
        Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(
            f"not counted by fvcore: {names}"
        )
