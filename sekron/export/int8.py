"""An ONNX graph in int8: ONNX Runtime's own static quantization after training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sekron.export.packages import needed

EXTRA = "onnxruntime"
"""Extra of ours that installs what quantizes."""


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
