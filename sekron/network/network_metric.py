"""The metrics of all layers of a network as one value, and the file that holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sekron.decomposition.metric import Metric
from sekron.network.digest import digest_of
from sekron.records import replacing

PARTS = ("output", "input", "sensitivity")


class NetworkMetric(Mapping[str, Metric]):
    """Layer name -> metric; without layers it is the plain norm.

    All of it is in the memory of the CPU, whatever device it was made on.

    Args:
        layers: The metric of every layer that has one.
    """

    def __init__(self, layers: Mapping[str, Metric] | None = None) -> None:
        self._layers = {name: metric.to("cpu") for name, metric in (layers or {}).items()}
        self._digest = digest_of(_tensors(self._layers)) if self._layers else ""

    def __getitem__(self, name: str) -> Metric:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NetworkMetric) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that tell the metric from all others; empty for the plain norm."""
        return self._digest

    def save(self, folder: Path) -> None:
        """Write it to the file of a folder that its digest names.

        Raises:
            OSError: If the disk refuses; the message names the file.
        """
        if self._layers:
            with replacing(metric_path(folder, self._digest)) as partial:
                save_file(_tensors(self._layers), partial)

    @classmethod
    def load(cls, folder: Path, digest: str) -> NetworkMetric:
        """Read the metric of a digest from a folder.

        Raises:
            FileNotFoundError: If the folder does not hold it.
            ValueError: If the file is damaged, or holds another metric than its name says.
        """
        path = metric_path(folder, digest)
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} must hold the metric {digest[:12]}, but is no file; put it back, or "
                "search again in another folder."
            )
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
        names = dict.fromkeys(key.rpartition("/")[0] for key in tensors)
        try:
            parts = {name: [tensors[f"{name}/{part}"] for part in PARTS] for name in names}
            layers = {name: _metric(*matrices) for name, matrices in parts.items()}
        except (KeyError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}.") from error
        metric = cls(layers)
        if metric.digest != digest:
            raise ValueError(f"{path} must hold the metric {digest[:12]}, but holds another.")
        return metric


def metric_path(folder: Path, digest: str) -> Path:
    """Return the file of a folder that holds the metric of a digest."""
    return folder / f"metric-{digest[:16]}.safetensors"


def _tensors(layers: Mapping[str, Metric]) -> dict[str, Tensor]:
    tensors = {}
    for name, metric in layers.items():
        sensitivity = torch.tensor(metric.sensitivity, dtype=torch.float64, device="cpu")
        parts = _exact(metric.output), _exact(metric.input), sensitivity
        tensors.update({f"{name}/{part}": t for part, t in zip(PARTS, parts, strict=True)})
    return tensors


def _exact(matrix: Tensor) -> Tensor:
    """Return a matrix in single precision where that loses nothing."""
    # The copy is contiguous, as a symmetric matrix may come as a view.
    single = matrix.detach().cpu().float()
    exact = single if torch.equal(single.double(), matrix.detach().cpu().double()) else matrix
    return exact.detach().cpu().clone(memory_format=torch.contiguous_format)


def _metric(output: Tensor, inputs: Tensor, sensitivity: Tensor) -> Metric:
    for matrix in (output, inputs):
        is_square = matrix.dim() in (2, 3) and matrix.shape[-1] == matrix.shape[-2]
        if not (is_square or matrix.dim() == 1):
            raise ValueError(f"a matrix has the shape {tuple(matrix.shape)}")
        if not (torch.isfinite(matrix).all() and matrix.any()):
            raise ValueError("a matrix is not finite, or nothing but zeros")
    if sensitivity.numel() != 1 or not 0.0 <= float(sensitivity) < float("inf"):
        raise ValueError("a sensitivity is not a number of at least 0")
    return Metric(output.double(), inputs.double(), float(sensitivity))
