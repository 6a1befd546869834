"""A single layer as an ONNX graph, in a fraction of the time that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from sekron.export.onnx_graph import OPSET


class Calls(nn.Module):
    """All calls that a network makes of a layer in one pass.

    Args:
        layer: Takes one tensor a call.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each call."""
        return tuple(self.layer(x) for x in inputs)


class NoCall(nn.Module):
    """What is left of a layer's calls without the layer: the way into a runtime and back."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return one number of each input."""
        return tuple(x.reshape(-1)[:1] for x in inputs)


def write_layer(layer: nn.Module, inputs: Sequence[Tensor], path: Path) -> list[str]:
    """Write calls of a layer as an ONNX file, for inputs of these sizes; return their names.

    A layer has no branches, so that its trace is all of it. Tracing and writing takes 0.01 to
    0.1 s, where the exporter of dynamo takes one or two, most of them for the tables of all that
    it could translate: a clock has hundreds of layers to time.

    Args:
        layer: `Calls` or `NoCall`, in evaluation.
        inputs: One of each call.
        path: Of the file.

    Raises:
        Exception: Whatever the exporter raises.
    """
    names = [f"input_{i}" for i in range(len(inputs))]
    torch.onnx.export(
        layer, tuple(inputs), path, input_names=names, opset_version=OPSET, dynamo=False
    )
    return names
