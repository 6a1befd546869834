"""An ONNX graph in int8: static quantization after training by each runtime's own tool."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sekron.export.packages import SHARED, needed

EXTRA, NNCF = "onnxruntime", "nncf"
"""Extras of ours that install what quantizes for ONNX Runtime and for OpenVINO."""

REPEATING = ("Broadcast", "Convert", "Reshape", "Tile")
"""Operators of OpenVINO that leave a matrix as it is, or repeat it."""

SILENT = "NNCF_CI"
"""Variable with which nncf, when it is imported, sends nothing to anybody."""


class _Reader:
    """Inputs as ONNX Runtime asks for them, one by one."""

    def __init__(self, inputs: Iterable[Mapping[str, Any]]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next inputs, None after the last."""
        return next(self._inputs, None)


def quantize(source: Path, target: Path, inputs: Iterable[Mapping[str, Any]]) -> None:
    """Write an ONNX file in which weights and activations are int8, one scale a channel of weights.

    Args:
        source: ONNX file in float32.
        target: File to write.
        inputs: Name -> array, once for each batch that the ranges of activations are taken from.

    Raises:
        Exception: Whatever the quantizer raises.
    """
    tool = needed("onnxruntime.quantization", EXTRA)
    prepare = needed("onnxruntime.quantization.shape_inference", EXTRA).quant_pre_process
    prepare(str(source), str(target), skip_symbolic_shape=True)
    tool.quantize_static(
        str(target),
        str(target),
        _Reader(inputs),
        quant_format=tool.QuantFormat.QDQ,
        per_channel=True,
        activation_type=tool.QuantType.QUInt8,
        weight_type=tool.QuantType.QInt8,
    )


def quantize_openvino(network: Any, inputs: Iterable[Mapping[str, Any]]) -> Any:
    """Return an OpenVINO network in which weights and activations are int8, by nncf.

    Products of a matrix that is repeated for each image with the image stay in float32: nncf takes
    both for activations, which left a network of such layers nothing of its accuracy.

    Args:
        network: As `openvino.Core.read_model` returns it, in float32.
        inputs: Name -> array, once for each batch that the ranges of activations are taken from.

    Raises:
        Exception: Whatever the quantizer raises.
    """
    batches = list(inputs)
    tool = nncf()
    products = [op for op in network.get_ops() if op.get_type_name() == "MatMul"]
    left = [op.get_friendly_name() for op in products if _is_repeated_constant(op.input_value(0))]
    scope = tool.IgnoredScope(names=left)
    return tool.quantize(
        network, tool.Dataset(batches), subset_size=len(batches), ignored_scope=scope
    )


def _is_repeated_constant(output: Any) -> bool:
    node = output.get_node()
    while node.get_type_name() in REPEATING:
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def nncf() -> Any:
    """Return the quantizer of OpenVINO, which would tell its maker that it is used.

    Raises:
        ImportError: If it is not installed.
    """
    with SHARED:
        before = os.environ.get(SILENT)
        os.environ[SILENT] = "1"
        try:
            return needed("nncf", NNCF)
        finally:
            if before is None:
                del os.environ[SILENT]
            else:
                os.environ[SILENT] = before
