"""What a search is asked for, checked: one object for all its stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from search.clock.race import EAGER
from search.folder.settings import Settings
from search.folder.storage import without_password
from search.per_layer.space import DEFAULT_FAMILIES
from sekron.budget import Budget, must_be_budget
from sekron.calibration.output_kind import Output, kind_of
from sekron.export.runtimes import version_of
from sekron.forward.batches import Batches
from sekron.forward.evaluation import Score, inputs_of
from sekron.forward.inputs import Arguments, Inputs, example_of
from sekron.network.eligibility import replaceable_modules
from sekron.network.network_metric import NetworkMetric
from sekron.network.opening import opened
from sekron.profiling.selection import Selection, patterns_of
from sekron.scalars import number, whole


@dataclass(frozen=True, slots=True)
class Request:
    """A search.

    Attributes:
        model: The trained network.
        example_input: What its forward takes.
        settings: What is recorded of the search.
        measure_seconds: Limit of the time for all measuring; 0 for none.
        keep_latency: Whether to use recorded latencies of another setting.
        calibration: Unlabelled batches, or None.
        metric: That was collected before and is taken instead, or None.
        output: What the network puts out, for the calibration; None to guess.
        score: Of a network, or None.
        storage: URL of the Optuna storage with its password; None for the run folder, or memory.
        progress: Whether to show how far it is.
        n_threads: Layers that are searched at the same time.
    """

    model: nn.Module
    example_input: Inputs
    settings: Settings
    measure_seconds: float = 120.0
    keep_latency: bool = False
    calibration: Batches | None = None
    metric: NetworkMetric | None = None
    output: Output | None = None
    score: Score | None = None
    storage: str | None = None
    progress: bool = True
    n_threads: int = 1

    @property
    def budget(self) -> Budget:
        """Of the whole network."""
        return self.settings.budget


def request_of(
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
) -> Request:
    """Return the request that the arguments of `search.run` make.

    Raises:
        ValueError: If one is out of range.
        TypeError: If the budget is none.
        ImportError: If the runtime is not installed.
    """
    must_be_budget(budget)
    version_of(runtime)
    if isinstance(families, str):
        raise ValueError(f"`families` must be a list of names, got the string {families!r}.")
    n_trials = whole("n_trials", n_trials)
    max_sequence_length = whole("max_sequence_length", max_sequence_length)
    rank_multiple = whole("rank_multiple", rank_multiple)
    measure_seconds = number("measure_seconds", measure_seconds)
    if not 0 <= measure_seconds < math.inf or (measure_seconds == 0 and budget.is_clocked):
        raise ValueError(
            "`measure_seconds` must be positive where latency is limited, else at least 0, and "
            f"finite, got {measure_seconds} for {budget}."
        )
    if measure_seconds == 0 and runtime != EAGER:
        raise ValueError(
            f"`measure_seconds` must be positive where a runtime is named, got 0 for {runtime}."
        )
    n_threads = torch.get_num_threads() if n_threads is None else whole("n_threads", n_threads)
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1, got {n_threads}.")
    if output is not None:
        kind_of(output, None)
    if budget.min_score is not None and score is None:
        raise ValueError(f"a least score needs `score`, got {budget} without one.")
    layers = replaceable_modules(opened(model))
    settings = Settings(
        max_sequence_length=max_sequence_length,
        families=tuple(sorted(families, key=lambda family: family == "cp")),
        sampler=sampler,
        seed=whole("seed", seed),
        n_trials=n_trials,
        include=patterns_of("include", include, layers),
        exclude=patterns_of("exclude", exclude, layers),
        storage=None if storage is None else without_password(storage),
        name=name or "sekron",
        calibrated=calibration is not None,
        min_share=number("min_share", min_share),
        rank_multiple=rank_multiple,
        budget=budget,
        is_timed=measure_seconds > 0,
        is_scored=score is not None,
        n_network_trials=whole("n_network_trials", n_network_trials),
        runtime=runtime,
    )
    metric = calibration if isinstance(calibration, NetworkMetric) else None
    batches = None if isinstance(calibration, NetworkMetric) else calibration
    if score is not None:
        batches = batches_for_scores(calibration, model, example_input)
    return Request(
        model,
        example_input,
        settings,
        measure_seconds,
        keep_latency,
        batches,
        metric,
        output,
        score,
        storage,
        progress,
        n_threads,
    )


def batches_for_scores(
    calibration: Batches | NetworkMetric | None, model: nn.Module, example_input: Inputs | None
) -> list[Arguments] | None:
    """Return the batches by which batch norm is re-estimated, again for every scored network.

    Args:
        calibration: As of `search.run`; a metric holds no images.
        model: The trained network.
        example_input: What its forward takes; None to read batches without it.

    Raises:
        ValueError: As `inputs_of` does, or `example_of`.
    """
    if calibration is None or isinstance(calibration, NetworkMetric):
        return None
    example = None if example_input is None else example_of(example_input, model)
    return list(inputs_of(calibration, model, "`calibration`", example))
