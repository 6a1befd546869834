"""What is done with a network in use, each as one check that runs it for real."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from search.clock.sides import Run
from search.verification.two_processes import gradients, gradients_of_two
from sekron.export.difference import TOLERANCE, largest_difference
from sekron.export.files import export_onnx, export_program
from sekron.export.other_inputs import larger_batch, larger_size
from sekron.export.readers import open_program
from sekron.export.runtimes import make_ready
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import map_tensors, tensors_in
from sekron.layers.channels import CHANNELS_LAST
from sekron.layers.conv import SeKronConv
from sekron.layers.linear import SeKronLinear
from sekron.network.checkpoint import load, save
from sekron.network.copying import copy_of
from sekron.network.swap import swap

HALF_TOLERANCE = 0.05
"""In bfloat16, which keeps eight bits of a number."""


@dataclass(frozen=True, slots=True)
class Case:
    """A network that is checked, in evaluation and without gradients.

    Attributes:
        network: Compressed or dense.
        fresh: A dense network of the same architecture, whatever its weights.
        arguments: What it runs on.
        expected: What it puts out for them.
        again: How far a second run is from that; more than rounding where it draws random numbers.
    """

    network: nn.Module
    fresh: nn.Module
    arguments: Arguments
    expected: list[Tensor]
    again: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a check.

    Attributes:
        difference: The largest one to what was expected, relative.
        run: One forward pass that way, for the clock; None where it tells nothing.
    """

    difference: float
    run: Run | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """One way to use a network.

    Attributes:
        try_: Tries it; raises whatever goes wrong.
        tolerance: Largest relative difference that counts as working.
    """

    try_: Callable[[Case], Outcome]
    tolerance: float = TOLERANCE


def _ran(case: Case, run: Run, *, in_half: bool = False) -> Outcome:
    difference = largest_difference(tensors_in(run()), case.expected, in_half=in_half)
    return Outcome(difference, run)


def _reload(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save(case.network, path)
        network = load(case.fresh, path).eval()
    return _ran(case, partial(case.arguments.run, network))


def _deepcopy(case: Case) -> Outcome:
    return _ran(case, partial(case.arguments.run, copy.deepcopy(case.network)))


def _batch(case: Case) -> Outcome:
    return _other_inputs(case, larger_batch(case.arguments), "its images cannot be told apart")


def _size(case: Case) -> Outcome:
    return _other_inputs(case, larger_size(case.arguments), "the input has no sizes to change")


def _other_inputs(case: Case, arguments: Arguments | None, otherwise: str) -> Outcome:
    """Compare with the network in which every layer is multiplied out."""
    if arguments is None:
        raise ValueError(otherwise)
    dense = copy_of(case.network)
    layers: dict[str, nn.Module] = {}
    for name, layer in dense.named_modules():
        if isinstance(layer, SeKronConv):
            layers[name] = layer.to_conv()
        elif isinstance(layer, SeKronLinear):
            layers[name] = layer.to_linear()
    expected = tensors_in(arguments.run(swap(dense, layers)))
    run = partial(arguments.run, case.network)
    return Outcome(largest_difference(tensors_in(run()), expected), run)


def _channels_last(case: Case) -> Outcome:
    def last(tensor: Tensor) -> Tensor:
        layout = CHANNELS_LAST.get(tensor.dim() - 2, torch.contiguous_format)
        return tensor.contiguous(memory_format=layout)

    network = copy_of(case.network)
    for parameter in network.parameters():
        parameter.data = last(parameter.data)
    return _ran(case, partial(_mapped(last, case.arguments).run, network))


def _bfloat16(case: Case) -> Outcome:
    def half(tensor: Tensor) -> Tensor:
        return tensor.bfloat16() if tensor.is_floating_point() else tensor

    network = copy_of(case.network).bfloat16()
    return _ran(case, partial(_mapped(half, case.arguments).run, network), in_half=True)


def _autocast(case: Case) -> Outcome:
    device = next((tensor.device.type for tensor in case.arguments.tensors), "cpu")

    def run() -> object:
        with torch.autocast(device, torch.bfloat16):
            return case.arguments.run(case.network)

    return _ran(case, run, in_half=True)


def _torch_export(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.pt2"
        file = export_program(case.network, case.arguments, path)
        run = open_program(path, file.inputs)
    return Outcome(file.difference, partial(run, case.arguments))


def _onnx(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        file = export_onnx(case.network, case.arguments, Path(folder) / "network.onnx")
    return Outcome(file.difference)


def _in_runtime(name: str) -> Callable[[Case], Outcome]:
    def check(case: Case) -> Outcome:
        ready = make_ready(name, case.network, case.arguments)
        return _ran(case, partial(ready.run, case.arguments))

    return check


def _distributed(case: Case) -> Outcome:
    found = gradients_of_two(case.network, case.arguments)
    return Outcome(largest_difference([found], [gradients(case.network, case.arguments)]))


def _mapped(function: Callable[[Tensor], Tensor], arguments: Arguments) -> Arguments:
    values = arguments.positional, dict(arguments.named)
    return Arguments(*map_tensors(function, values))


CHECKS: dict[str, Check] = {
    "torch": Check(_in_runtime("torch")),
    "reload": Check(_reload),
    "deepcopy": Check(_deepcopy),
    "other batch": Check(_batch),
    "other size": Check(_size),
    "channels last": Check(_channels_last),
    "bfloat16": Check(_bfloat16, HALF_TOLERANCE),
    "autocast": Check(_autocast, HALF_TOLERANCE),
    "torch.compile": Check(_in_runtime("torch.compile")),
    "torch.export": Check(_torch_export),
    "ONNX file": Check(_onnx),
    "onnxruntime": Check(_in_runtime("onnxruntime")),
    "openvino": Check(_in_runtime("openvino")),
    "two processes": Check(_distributed),
}
"""Name -> check, the quick ones first."""
