"""`sekron layers` and `sekron search`: what could be searched, and the search."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated, Literal

import torch
import typer

from search.cli.arguments import (
    Calibration,
    Images,
    Inputs,
    Json,
    LatencyShare,
    Limit,
    Milliseconds,
    MinScore,
    MinShare,
    Model,
    Normalize,
    Patterns,
    Speedup,
    Storage,
    Weights,
    budget_of,
    check_with,
    example_of,
    source_of,
)
from search.cli.calibration import calibration_options, load_calibration
from search.cli.output import (
    complain,
    note_uncounted,
    print_frame,
    print_front,
    print_json,
    rows_of,
    say,
)
from search.cli.sources import load_model, load_score
from search.cli.trust import remember
from search.cli.worker import CODE
from search.clock.race import EAGER
from search.folder.run_folder import RunFolder
from search.folder.storage import without_password
from search.front.frames import layers_frame
from search.front.outcome import Outcome
from search.pipeline.request import request_of
from search.pipeline.search import search_network
from search.workers.processes import Processes
from sekron.export.runtimes import RUNTIMES
from sekron.profiling.profile import profile

MOST_WORKERS = 256
"""Processes of one search on one machine."""


def layers(
    model: Model,
    inputs: Inputs,
    weights: Weights = "",
    include: Patterns = None,
    exclude: Patterns = None,
    min_share: MinShare = 0.0,
    as_json: Json = False,
) -> None:
    """List every layer with its cost, and why it would stay dense."""
    network = load_model(model, weights)
    example = example_of(source_of(model, weights, inputs))
    costs = profile(network, example, include, exclude, min_share)
    frame = layers_frame(costs)
    if as_json:
        totals = {"flops": costs.flops, "params": costs.params, "unsupported": costs.unsupported}
        print_json({"layers": rows_of(frame), **totals})
        return
    shown = ["layer", "kind", "weight_shape", "flops_share", "params_share", "reason"]
    print_frame(frame.reindex(columns=shown))  # without layers it has no columns
    say(f"{costs.flops:,} FLOPs, {costs.params:,} parameters")
    note_uncounted(costs.unsupported)


def search(
    model: Model,
    inputs: Inputs,
    run: Annotated[str, typer.Option(help="Folder that keeps everything; made if missing.")],
    weights: Weights = "",
    flops: Limit = None,
    params: Limit = None,
    latency: LatencyShare = None,
    latency_ms: Milliseconds = None,
    speedup: Speedup = None,
    min_score: MinScore = None,
    include: Patterns = None,
    exclude: Patterns = None,
    min_share: MinShare = 0.0,
    rank_multiple: Annotated[int, typer.Option(help="Of which all ranks are multiples.")] = 1,
    trials: Annotated[int, typer.Option(help="Proposals per layer, at most.")] = 50,
    max_length: Annotated[int, typer.Option(help="Most factors in a sequence.")] = 3,
    sampler: Annotated[str, typer.Option(help="neighbour, tpe, nsga2 or random.")] = "neighbour",
    storage: Storage = None,
    name: Annotated[str, typer.Option(help="Of the search, among others in its storage.")] = "",
    seed: int = 0,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Layers searched at a time; default torch's threads, shared by --workers."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes on this machine; `sekron worker` adds more anywhere.")
    ] = 1,
    calibration: Calibration = "",
    normalize: Normalize = None,
    images: Images = None,
    output_kind: Annotated[
        Literal["logits", "values"] | None,
        typer.Option(help="What the network puts out; default what it looks like."),
    ] = None,
    score: Annotated[str, typer.Option(help="module:attribute of a function of a network.")] = "",
    network_trials: Annotated[
        int, typer.Option(help="Whole plans tried where latency is limited or there is a score.")
    ] = 30,
    measure_seconds: Annotated[
        float, typer.Option(help="Limit for all measuring; at 0 nothing is measured.")
    ] = 120.0,
    keep_latency: Annotated[
        bool, typer.Option("--keep-latency", help="Use latencies of another machine or setting.")
    ] = False,
    runtime: Annotated[
        str,
        typer.Option(
            help=f"What runs what is timed: {', '.join(RUNTIMES)}; a run folder keeps the times "
            "of several."
        ),
    ] = EAGER,
    as_json: Json = False,
) -> None:
    """Search a network under a budget; the same command on the same folder goes on."""
    source = source_of(model, weights, inputs)
    check_with("--calibration", bool(calibration), output_kind=output_kind)
    check_with("--measure-seconds above 0", measure_seconds != 0, keep_latency=keep_latency)
    if not 1 <= workers <= MOST_WORKERS:
        raise ValueError(f"--workers must be from 1 to {MOST_WORKERS}, got {workers}.")
    threads = max(torch.get_num_threads() // workers, 1) if threads is None else threads
    request = request_of(
        load_model(model, weights),
        example_of(source),
        budget=budget_of(flops, params, latency, latency_ms, speedup, min_score),
        n_trials=trials,
        max_sequence_length=max_length,
        include=include,
        exclude=exclude,
        min_share=min_share,
        rank_multiple=rank_multiple,
        sampler=sampler,
        storage=storage,
        name=name,
        seed=seed,
        measure_seconds=measure_seconds,
        keep_latency=keep_latency,
        calibration=load_calibration(calibration, source.inputs, normalize, images),
        output=output_kind,
        score=load_score(score) if score else None,
        n_network_trials=network_trials,
        n_threads=threads,
        runtime=runtime,
    )
    remember(run, model)
    options = [run, "--model", model, "--threads", str(threads)]
    options += ["--weights", weights] if weights else []
    if score:
        options += ["--score", score]
        options += calibration_options(calibration, normalize, images)
    with Processes(workers - 1, CODE, ["worker", *options], storage, complain) as others:
        folder = RunFolder(run, source)
        result = search_network(request, folder, complain, on_begin=others.begin)
    note_uncounted(result.profile.unsupported)
    outcome = Outcome.of(result, result.best)
    if as_json:
        print_json({"run": run, "wanted": str(request.budget), **asdict(outcome)})
        return
    print_front(result)
    given = "" if storage is None else f" --storage {shlex.quote(without_password(storage))}"
    say(f"best plan for {request.budget}: {outcome}")
    say(
        f"it is {run}/plan.json; next: sekron report {shlex.quote(run)}{given}, or sekron apply "
        f"{shlex.quote(run)}{given} --output small.safetensors"
    )
