"""Read the weights of a network from ncnn's two files, a `.param` and a `.bin`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

MAGIC = "7767517"
"""First line of a `.param` file."""

FLOAT32, FLOAT16 = 0, 0x01306B47
"""Flags before a weight: what its numbers are stored as."""

ALIGNMENT = 4
"""Bytes that the numbers after a flag are padded to."""

FROM_INPUT = -233
"""Size of a `Scale` whose factors come from another layer, so that it has none of its own."""

MOST = 2**28
"""Numbers of one tensor, 1 GB: a size beyond it is that of a damaged file."""

WITHOUT_WEIGHTS = frozenset(
    {
        *("BinaryOp", "Concat", "Crop", "Eltwise", "Input", "Interp", "PixelShuffle", "Pooling"),
        *("ReLU", "Sigmoid", "Split"),
    }
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a `.param` file.

    Attributes:
        kind: Type of the layer, such as `Convolution`.
        name: Name of the layer.
        numbers: Key -> integer option; those that are no integers are left out.
    """

    kind: str
    name: str
    numbers: dict[int, int]


def read_ncnn(param: Path, binary: Path) -> dict[str, dict[str, Tensor]]:
    """Read every layer that has weights, in the order of the file.

    Args:
        param: The layers, as text.
        binary: Their weights, one layer after another.

    Returns:
        Layer name -> `weight` of shape `(out, in, height, width)` and `bias`, `(out,)`, of a
        convolution, `(in, out, height, width)` of a `Deconvolution`, as torch has it; `(out, in)`
        and `(out,)` of an `InnerProduct`; `weight`, `(channels,)`, of a `PReLU` or a `Scale`. All
        in single precision.

    Raises:
        ValueError: If a file is not of this format or does not end where it should, or a layer is
            of a kind that is not known here.
    """
    source = _Source(binary.read_bytes(), binary.name)
    layers = {}
    for entry in _entries(param):
        if entry.kind in WITHOUT_WEIGHTS:
            continue
        if entry.kind not in READERS:
            raise ValueError(
                f"layers with weights must be of the kinds {', '.join(READERS)}, got "
                f"{entry.kind!r} for layer {entry.name!r} of {param.name}."
            )
        tensors = READERS[entry.kind](entry, source)
        if tensors:
            layers[entry.name] = tensors
    source.end()
    return layers


def fill(row: Sequence[nn.Module] | nn.Sequential, layers: dict[str, dict[str, Tensor]]) -> None:
    """Copy weights into modules, one layer after another.

    Args:
        row: A module for every layer, in the same order; each has those parameters alone.
        layers: Layer name -> parameter name -> tensor.

    Raises:
        ValueError: If names or shapes do not fit.
    """
    if len(row) != len(layers):
        raise ValueError(f"the network must have {len(row)} layers, got {len(layers)}.")
    for module, (name, tensors) in zip(row, layers.items(), strict=True):
        own = dict(module.named_parameters())
        wanted, got = ({key: tuple(t.shape) for key, t in d.items()} for d in (own, tensors))
        if wanted != got:
            raise ValueError(f"layer {name!r} must have the shapes {wanted}, got {got}.")
        with torch.no_grad():
            for key, tensor in tensors.items():
                own[key].copy_(tensor)


class _Source:
    """The bytes of a `.bin` file, read once, forwards."""

    def __init__(self, data: bytes, file: str) -> None:
        self._data, self._file, self._place = data, file, 0

    def flagged(self, layer: str, *shape: int) -> Tensor:
        """Read a tensor behind the flag that tells its type."""
        flag = int(np.frombuffer(self._taken(4, layer), "<u4")[0])
        if flag not in (FLOAT32, FLOAT16):
            raise ValueError(
                f"weights must be stored as fp16 or fp32, got the flag {flag:#010x} at layer "
                f"{layer!r} of {self._file}; quantized files cannot be read."
            )
        return self._numbers(layer, shape, "<f2" if flag == FLOAT16 else "<f4")

    def plain(self, layer: str, *shape: int) -> Tensor:
        """Read a tensor in single precision that has no flag."""
        return self._numbers(layer, shape, "<f4")

    def end(self) -> None:
        """Refuse bytes that no layer has taken."""
        left = len(self._data) - self._place
        if left:
            raise ValueError(
                f"{self._file} must end with its last layer, but has {left} bytes more; it belongs "
                "to another `.param` file."
            )

    def _numbers(self, layer: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        count = math.prod(shape)
        if min(shape) < 1 or count > MOST:
            raise ValueError(f"layer {layer!r} must have a size within reach, got {shape}.")
        n_bytes = count * np.dtype(dtype).itemsize
        padded = self._taken(-(-n_bytes // ALIGNMENT) * ALIGNMENT, layer)
        values = np.frombuffer(padded[:n_bytes], dtype).astype(np.float32)
        return torch.from_numpy(values).reshape(shape)

    def _taken(self, n_bytes: int, layer: str) -> bytes:
        start, self._place = self._place, self._place + n_bytes
        if self._place > len(self._data):
            raise ValueError(
                f"{self._file} must hold {self._place} bytes up to layer {layer!r}, but is cut "
                f"short at {len(self._data)}."
            )
        return self._data[start : self._place]


def _entries(param: Path) -> Iterator[Entry]:
    """Yield the layers of a `.param` file, of which there must be as many as it says."""
    lines = param.read_text(encoding="utf-8", errors="replace").split("\n")
    if lines[0].strip() != MAGIC:
        raise ValueError(f"{param.name} must begin with {MAGIC}, got {lines[0][:20]!r}.")
    try:
        n_layers = int(lines[1].split()[0])
        entries = [_entry(line.split()) for line in lines[2:] if line.strip()]
    except (ValueError, IndexError) as error:
        raise ValueError(f"{param.name} must have a layer on each line ({error}).") from error
    if len(entries) != n_layers:
        raise ValueError(
            f"{param.name} must have the {n_layers} layers that it speaks of, but has "
            f"{len(entries)}; it is cut short."
        )
    yield from entries


def _entry(words: list[str]) -> Entry:
    """Parse `kind name n_inputs n_outputs inputs… outputs… key=value…`."""
    kind, name, n_inputs, n_outputs = words[:4]
    options = (word.split("=") for word in words[4 + int(n_inputs) + int(n_outputs) :])
    numbers = {int(key): int(value) for key, value in options if value.lstrip("-").isdigit()}
    return Entry(kind, name, numbers)


def _convolution(entry: Entry, source: _Source) -> dict[str, Tensor]:
    numbers = entry.numbers
    n_outputs, width = numbers.get(0, 0), numbers.get(1, 0)
    height = numbers.get(11, width)
    rows = n_outputs * height * width
    n_inputs = numbers.get(6, 0) // max(rows, 1)
    if n_inputs * rows != numbers.get(6, 0):
        raise ValueError(
            f"the {numbers.get(6, 0)} weights of layer {entry.name!r} must be a multiple of its "
            f"{n_outputs} outputs times {height} by {width}."
        )
    weight = source.flagged(entry.name, n_outputs, n_inputs, height, width)
    return _with_bias(weight, entry, source, has_bias=numbers.get(5, 0))


def _deconvolution(entry: Entry, source: _Source) -> dict[str, Tensor]:
    tensors = _convolution(entry, source)
    return tensors | {"weight": tensors["weight"].transpose(0, 1).contiguous()}


def _inner_product(entry: Entry, source: _Source) -> dict[str, Tensor]:
    n_outputs = entry.numbers.get(0, 0)
    n_inputs = entry.numbers.get(2, 0) // max(n_outputs, 1)
    weight = source.flagged(entry.name, n_outputs, n_inputs)
    return _with_bias(weight, entry, source, has_bias=entry.numbers.get(1, 0))


def _prelu(entry: Entry, source: _Source) -> dict[str, Tensor]:
    return {"weight": source.plain(entry.name, entry.numbers.get(0, 0))}


def _scale(entry: Entry, source: _Source) -> dict[str, Tensor]:
    size = entry.numbers.get(0, 0)
    if size == FROM_INPUT:
        return {}
    weight = source.plain(entry.name, size)
    return _with_bias(weight, entry, source, has_bias=entry.numbers.get(1, 0))


def _with_bias(weight: Tensor, entry: Entry, source: _Source, has_bias: int) -> dict[str, Tensor]:
    if not has_bias:
        return {"weight": weight}
    return {"weight": weight, "bias": source.plain(entry.name, len(weight))}


READERS: dict[str, Callable[[Entry, _Source], dict[str, Tensor]]] = {
    "Convolution": _convolution,
    "Deconvolution": _deconvolution,
    "InnerProduct": _inner_product,
    "PReLU": _prelu,
    "Scale": _scale,
}
