"""The metrics of a search: from unlabelled batches once, from its run folder ever after."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sekron.calibration.metrics import metrics
from sekron.calibration.moments import moments
from sekron.calibration.sensitivity import LEVELS, divergences, weighed
from sekron.decomposition.metric import Metric
from sekron.forward import Batches, inputs_of
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import NetworkProfile

PARTS = ("output", "input", "sensitivity")


FILE = "metric.safetensors"
"""In a run folder."""


WORK = 3e12
"""Multiply-adds, about, for the sensitivities: half a minute on two cores."""

MOST_IMAGES, FEWEST_IMAGES = 256, 8
"""That the sensitivities are measured on; fewer for larger networks."""

CHUNK = 64
"""Images at a time."""


def calibrate(
    model: nn.Module, profile: NetworkProfile, batches: Batches | None, folder: Path | None
) -> dict[str, Metric]:
    """Return layer name -> metric of a network; nothing without batches.

    Args:
        model: Not modified.
        profile: Names the layers, the searched ones.
        batches: Unlabelled, gone through once; not looked at where the folder has metrics.
        folder: Of a run, perhaps not yet there, or None.
    """
    if batches is None:
        return {}
    names = [layer.name for layer in profile.searched]
    if folder is not None and (folder / FILE).exists():
        return read_metrics(names, folder)
    shown: list[Tensor] = []
    collected = moments(model, names, _keeping(batches, shown, _n_images(profile)))
    own = metrics({name: weight_of(model, name) for name in names}, collected)
    try:
        return weighed(own, divergences(model, own, _chunks(shown)))
    except ValueError as error:
        warnings.warn(f"{error} Layers are weighed by the metric alone.", stacklevel=4)
        return own


def write_metrics(found: dict[str, Metric], folder: Path) -> None:
    """Write metrics to one safetensors file of a run folder, in one step."""
    tensors = {}
    for name, metric in found.items():
        sensitivity = torch.tensor(metric.sensitivity, dtype=torch.float64)
        parts = metric.output.float(), metric.input.float(), sensitivity
        # Contiguous and of its own: what is symmetric may come as a view.
        tensors.update(
            {f"{name}/{part}": t.contiguous() for part, t in zip(PARTS, parts, strict=True)}
        )
    temporary = folder / f".{FILE}.{os.getpid()}"
    save_file(tensors, temporary)
    temporary.replace(folder / FILE)


def read_metrics(names: Sequence[str], folder: Path) -> dict[str, Metric]:
    """Return layer name -> metric.

    Args:
        names: Of the layers that must have one.
        folder: Of a run.

    Raises:
        ValueError: If the file is damaged.
        FileNotFoundError: If there is none.
    """
    path = folder / FILE
    try:
        tensors = load_file(path)
        parts = {name: [tensors[f"{name}/{part}"] for part in PARTS] for name in names}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error.args[0]!r}.") from error
    return {name: _metric(name, path, *of) for name, of in parts.items()}


def _metric(name: str, path: Path, output: Tensor, inputs: Tensor, sensitivity: Tensor) -> Metric:
    for matrix in (output, inputs):
        known = matrix.dim() == 1
        known |= matrix.dim() in (2, 3) and matrix.shape[-1] == matrix.shape[-2]
        if not (known and torch.isfinite(matrix).all() and matrix.any()):
            raise ValueError(f"{path} is damaged: a matrix of layer {name!r} is not one.")
    if sensitivity.numel() != 1 or not 0.0 <= float(sensitivity) < float("inf"):
        raise ValueError(f"{path} is damaged: the sensitivity of layer {name!r} is not one.")
    return Metric(output.double(), inputs.double(), float(sensitivity))


def _n_images(profile: NetworkProfile) -> int:
    work = max(profile.flops * len(profile.searched) * len(LEVELS), 1)
    return min(max(int(WORK / work), FEWEST_IMAGES), MOST_IMAGES)


def _keeping(batches: Batches, kept: list[Tensor], n_images: int) -> Iterator[Tensor]:
    """Pass batches on, and keep the first images."""
    for x in inputs_of(batches, "`calibration`"):
        left = n_images - sum(map(len, kept))
        if left > 0:
            kept.append(x[:left])
        yield x


def _chunks(batches: Sequence[Tensor]) -> Sequence[Tensor]:
    """Join batches where they are alike, so that none is of a single image."""
    if len({x.shape[1:] for x in batches}) > 1:
        return batches
    images = torch.cat(list(batches))
    return images.tensor_split(-(-len(images) // CHUNK))
