"""A traced network as an ONNX graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sekron.export.packages import needed
from sekron.export.program import Program, named_shape

OPSET = 18
"""Version of ONNX's operators: the first that the exporter writes without converting."""


def check_packages() -> None:
    """Raise an ImportError unless ONNX graphs can be made here."""
    for package in ("onnx", "onnxscript"):
        needed(package, "onnxruntime")


def write_onnx(program: Program, path: Path, opset: int = OPSET) -> None:
    """Write a program as an ONNX file; weights beyond 2 GB go into a file beside it.

    Args:
        program: As `trace` returns it.
        path: Of the file.
        opset: Version of the operators.

    Raises:
        Exception: Whatever the exporter raises.
    """
    written = torch.onnx.export(program.exported, opset_version=opset, verbose=False)
    assert written is not None  # it is for the exporter of dynamo
    _name(written.model.graph, program)
    needed("onnx_ir.passes.common", "onnxruntime").NameFixPass()(written.model)
    written.save(path)


def _name(graph: Any, program: Program) -> None:
    """Give inputs, outputs and free sizes the names that they have in the network."""
    for values, names in ((graph.inputs, program.inputs), (graph.outputs, program.outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    shape_of = needed("onnx_ir", "onnxruntime").Shape
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.shape is not None:
            value.shape = shape_of(named_shape(value.shape, program.symbols))
