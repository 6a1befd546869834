"""The metrics of a search: from unlabelled batches once, from its run folder ever after."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sekron.metric import Metric, metrics
from sekron.moments import Batches, moments
from sekron.surgery import weight_of

PARTS = ("output", "input", "sensitivity")


FILE = "metric.safetensors"
"""In a run folder."""


def calibrate(
    model: nn.Module, names: Sequence[str], batches: Batches | None, folder: Path | None
) -> dict[str, Metric]:
    """Return layer name -> metric of a network; nothing without batches.

    Args:
        model: Not modified.
        names: Of the layers.
        batches: Unlabelled; not looked at where the folder has metrics.
        folder: Of a run, perhaps not yet there, or None.
    """
    if batches is None:
        return {}
    if folder is not None and (folder / FILE).exists():
        return read_metrics(names, folder)
    collected = moments(model, names, batches)
    return metrics({name: weight_of(model, name) for name in names}, collected)


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
        square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
        if not (square and torch.isfinite(matrix).all() and matrix.any()):
            raise ValueError(f"{path} is damaged: a matrix of layer {name!r} is not one.")
    if sensitivity.numel() != 1 or not 0.0 <= float(sensitivity) < float("inf"):
        raise ValueError(f"{path} is damaged: the sensitivity of layer {name!r} is not one.")
    return Metric(output.double(), inputs.double(), float(sensitivity))
