"""The search as users call it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from search.clock.race import EAGER
from search.folder.recorder import Nobody, Recorder
from search.folder.run_folder import RunFolder
from search.front.result import SearchResult
from search.per_layer.space import DEFAULT_FAMILIES
from search.pipeline.request import request_of
from search.pipeline.search import search_network
from sekron.budget import Budget
from sekron.calibration.output_kind import Output
from sekron.forward.batches import Batches
from sekron.forward.evaluation import Score
from sekron.forward.inputs import Inputs
from sekron.network.network_metric import NetworkMetric
from sekron.profiling.selection import Selection


def run(
    model: nn.Module,
    example_input: Inputs,
    *,
    budget: Budget,
    n_trials: int = 50,
    max_sequence_length: int = 3,
    families: Sequence[str] = DEFAULT_FAMILIES,
    sampler: str = "neighbour",
    include: Selection | None = None,
    exclude: Selection | None = None,
    min_share: float = 0.0,
    rank_multiple: int = 1,
    run: str | Path | None = None,
    storage: str | None = None,
    name: str | None = None,
    seed: int = 0,
    measure_seconds: float = 120.0,
    keep_latency: bool = False,
    n_network_trials: int = 30,
    calibration: Batches | NetworkMetric | None = None,
    output: Output | None = None,
    score: Score | None = None,
    progress: bool = True,
    n_threads: int | None = None,
    runtime: str = EAGER,
) -> SearchResult:
    """Search the factorization of every layer, and choose among them under a budget.

    Per layer, all structures that keep every mode whole, or divide a long kernel, are enumerated,
    then one Optuna study proposes others; each brings all its ranks with their exact errors. The
    choice across layers is an integer program, solved exactly or with the gap reported.

    Args:
        model: A trained network; never modified.
        example_input: What its forward takes: a tensor `(batch, …)`, a tuple of positional or a
            mapping of keyword arguments. Eager torch is timed with its order in memory: on a CPU
            it often runs images with `memory_format=torch.channels_last` much faster.
        budget: Of the whole network.
        n_trials: Structures proposed per layer, besides the enumerated ones; fewer, by its share,
            for one with less than a hundredth of the FLOPs and of the parameters.
        max_sequence_length: Most factors of a structure, at least 2.
        families: Names from `sekron.structures.families.FAMILIES`.
        sampler: One of `neighbour`, `tpe`, `nsga2`, `random`.
        include: Layers to search: patterns of their names, classes, or a function of name and
            module; default all but the first convolution and the last linear layer.
        exclude: Layers to leave dense, in the same way.
        min_share: Share of the FLOPs, or of the parameters, that a layer must have to be worth a
            search.
        rank_multiple: Of which all ranks are multiples, such as 8 where the device has units that
            work on so many channels at once.
        run: Folder that keeps everything; a later call with it goes on where this one ended. Its
            `factors`, about 512 MiB at most, are only there to be computed no second time.
        storage: Optuna storage URL; default a journal in the run folder, or memory without one.
        name: Prefix of the studies' names, for a storage that several searches share.
        seed: Of the samplers; same seed, same trials, and without a clock the same plan.
        measure_seconds: Limit of the time for all measuring: about half for layers, the rest for
            whole networks; what there was no time for is told. Only the plan for the budget is
            measured in any case, with a warning where that took longer. Factors are random there:
            of a network whose time depends on its numbers, as on how many boxes a detector finds,
            `search.compare` tells what the applied plan takes. 0 measures nothing, which neither a
            budget of latency nor a `runtime` allows.
        keep_latency: Whether to use latencies in the run folder that were measured on another
            machine or in another setting.
        n_network_trials: Whole plans that an Optuna study tries around the exact ones, where
            latency is limited or there is a score, and so not everything is additive.
        calibration: Unlabelled batches that hold what the example does; of tuples what follows
            is left out, labels for example. Errors are then measured, and weights
            decomposed, in a metric of what goes through the network and of what its output
            depends on; a run folder keeps it. Or such a metric, of an earlier result.
        output: What the network puts out, and so what the calibration holds dear: `logits` of
            classes along axis 1, `values`, or a function of the compressed and the dense network's
            outputs that returns how far they are apart; default by what the outputs look like.
        score: Of a network, more is better: its accuracy on held-out data, say. The plan with the
            best score of all trials is taken then, or the one with the fewest FLOPs that has the
            budget's `min_score`. Before each scoring batch norm is re-estimated on the
            calibration, which is kept in memory for that.
        progress: Whether to show a progress bar on stderr.
        n_threads: Layers that are searched at the same time, each on one thread, or with a run
            folder, where they take long, in a process; default as many as torch has threads. The
            result does not depend on it, but for errors' last digits where all layers are wide.
        runtime: That is timed, layer by layer and whole: torch, torch.compile, onnxruntime,
            openvino, onnxruntime-int8 or openvino-int8 (quantized, candidates too),
            onnxruntime-cuda or onnxruntime-tensorrt. A run folder keeps the times of several side
            by side; for the same latency the plan of another one is taken where it is better here.

    Returns:
        The result.

    Raises:
        InfeasibleBudget: Before anything is searched, if no plan can fit; afterwards, if none
            holds the latency on the clock or has the least score.
        ValueError: If an argument is out of range, a weight is not finite, the example does not
            run, there is nothing to replace, the folder belongs to another search, or another
            process is at this one: `search.join` helps there. `sekron.CannotRun`, which is one, if
            the runtime does not take the network, or no compressed one ran, with random factors.
        TypeError: If the budget is no `Budget`, or a number is none.
        ImportError: If the runtime is not installed.
        ConnectionError: If a database stays away for more than a minute.
    """
    recorder: Recorder = Nobody() if run is None else RunFolder(run)
    request = request_of(
        model,
        example_input,
        budget=budget,
        n_trials=n_trials,
        max_sequence_length=max_sequence_length,
        families=families,
        sampler=sampler,
        include=include,
        exclude=exclude,
        min_share=min_share,
        rank_multiple=rank_multiple,
        storage=storage,
        name=name,
        seed=seed,
        measure_seconds=measure_seconds,
        keep_latency=keep_latency,
        n_network_trials=n_network_trials,
        calibration=calibration,
        output=output,
        score=score,
        progress=progress,
        n_threads=n_threads,
        runtime=runtime,
    )
    notes: list[str] = []
    try:
        return search_network(request, recorder, notes.append)
    finally:
        for note in dict.fromkeys(notes):
            warnings.warn(note, stacklevel=2)
