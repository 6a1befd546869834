"""The metrics of a search, from unlabelled batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise

from torch import Tensor, nn

from search.pipeline.request import Request
from sekron.calibration.metrics import metrics_of
from sekron.calibration.moments import moments
from sekron.calibration.output_kind import OutputKind, kind_of
from sekron.calibration.sensitivity import LEVELS, divergences, weighted_by
from sekron.forward.batches import Batches
from sekron.forward.evaluation import evaluating, inputs_of, output_of
from sekron.forward.inputs import Arguments, example_of
from sekron.network.copying import copy_of
from sekron.network.network_metric import NetworkMetric
from sekron.network.opening import opened
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import NetworkProfile

WORK = 3e12
"""Multiply-adds, about, for the sensitivities: half a minute on two cores."""

MOST_IMAGES, FEWEST_IMAGES = 256, 8
"""That the sensitivities are measured on; fewer for larger networks."""

RATE = 1e11
"""Multiply-adds a second, about, of a network that runs on two cores."""

PASSES = 6
"""Times the FLOPs of an image that its moments take, which go forwards and backwards."""

AT_ONCE = 64
"""Images at a time."""


def metrics_for(
    request: Request,
    profile: NetworkProfile,
    recorded: NetworkMetric | None,
    warn: Callable[[str], None],
) -> NetworkMetric:
    """Return the metrics of a search: those on record, those that were given, or new ones.

    Args:
        request: The search.
        profile: Of the network.
        recorded: Of an earlier search in the same folder, or None; batches are not looked at then.
        warn: As in `calibrate`.

    Raises:
        ValueError: If metrics were given that are not those on record, or not of this network.
    """
    if request.metric is None:
        if recorded is not None:
            return recorded
        if request.calibration is None:
            return NetworkMetric()
        batches, kind = _kind(request)
        return calibrate(request.model, profile, batches, warn, kind)
    if recorded is not None and recorded != request.metric:
        raise ValueError(
            f"the run folder was searched in the metric {recorded.digest[:12] or 'none'}, got "
            f"{request.metric.digest[:12] or 'none'}; use the same, or another run folder."
        )
    for layer in profile.searched:
        metric = request.metric.get(layer.name)
        sizes = layer.block_shape[:2]
        if metric is None or (metric.output.shape[-1], metric.input.shape[-1]) != sizes:
            raise ValueError(
                f"the metric in `calibration` must be of this network, but has none for layer "
                f"{layer.name!r} with {sizes[1]} inputs and {sizes[0]} outputs; give batches."
            )
    return request.metric


def calibrate(
    model: nn.Module,
    profile: NetworkProfile,
    batches: Batches,
    warn: Callable[[str], None],
    kind: OutputKind,
) -> NetworkMetric:
    """Return the metrics of a network's layers.

    Args:
        model: Not modified.
        profile: Names the layers, the searched ones.
        batches: Unlabelled, gone through once.
        warn: Called where the layers' sensitivities cannot be measured, or the images are constant.
        kind: Of what the network puts out.
    """
    names = [layer.name for layer in profile.searched]
    model = opened(model, names)
    shown: list[Arguments] = []
    kept = _keeping(inputs_of(batches, model, "`calibration`"), shown, _n_images(profile))
    collected = moments(model, names, kept, output=kind)
    if _is_constant(shown):
        warn(
            "`calibration` must hold images of the kind that the network sees, but every number of "
            "its first ones is the same: the metric tells nothing of the network's use."
        )
    by_size = metrics_of({name: weight_of(model, name) for name in names}, collected)
    try:
        measured = divergences(model, by_size, _chunks(shown), kind)
    except ValueError as error:
        warn(f"{error} Layers count by the metric alone.")
        return NetworkMetric(by_size)
    return NetworkMetric(weighted_by(by_size, measured))


def _kind(request: Request) -> tuple[Batches, OutputKind]:
    """Return the calibration, and what the network puts out for it; tell where that is a guess."""
    assert request.calibration is not None
    example = example_of(request.example_input, request.model)
    inputs = inputs_of(request.calibration, request.model, "`calibration`", example)
    first = next(inputs)
    model = copy_of(request.model)  # forward may change it
    with evaluating(model):
        kind = kind_of(request.output, output_of(model, first, "the calibration batches"))
    if request.output is None and request.progress:
        sys.stderr.write(
            f"calibration: the network's outputs are taken for {kind.name}; if they are not, name "
            "them by `output`, on the command line by --output-kind\n"
        )
    return chain([first], inputs), kind


def calibration_seconds(profile: NetworkProfile) -> float:
    """Return about how long `calibrate` takes, for the most images that sensitivities look at."""
    per_image = len(profile.searched) * len(LEVELS) + PASSES
    return profile.flops * per_image * _n_images(profile) / RATE


def _n_images(profile: NetworkProfile) -> int:
    work = max(profile.flops * len(profile.searched) * len(LEVELS), 1)
    return min(max(int(WORK / work), FEWEST_IMAGES), MOST_IMAGES)


def _keeping(
    batches: Iterable[Arguments], shown: list[Arguments], n_images: int
) -> Iterator[Arguments]:
    """Pass batches on, and keep the first images."""
    for batch in batches:
        left = n_images - sum(map(len, shown))
        if left > 0:
            shown.append(batch.images(0, left))
        yield batch


def _is_constant(batches: Sequence[Arguments]) -> bool:
    """Whether no tensor that the network takes in holds two different numbers."""
    firsts: dict[int, Tensor] = {}
    return all(
        bool((tensor == firsts.setdefault(place, tensor.flatten()[0])).all())
        for batch in batches
        for place, tensor in enumerate(batch.tensors)
        if tensor.numel()
    )


def _chunks(batches: Sequence[Arguments]) -> Sequence[Arguments]:
    """Join batches where they are alike, so that none is of a single image."""
    joined = batches[0]
    for batch in batches[1:]:
        both = joined.joined(batch)
        if both is None:
            return batches
        joined = both
    n_chunks = -(-len(joined) // AT_ONCE)
    bounds = [-(-len(joined) * i // n_chunks) for i in range(n_chunks + 1)]
    return [joined.images(start, stop) for start, stop in pairwise(bounds)]
