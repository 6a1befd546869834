"""An exported network, opened in the runtime that it is for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sekron.export.int8 import quantize, quantize_openvino
from sekron.export.packages import needed
from sekron.export.refusal import CannotRun
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import tensors_in

CPU = ("CPUExecutionProvider",)
"""Of ONNX Runtime."""

Reader = Callable[[Path, Iterable[str]], Callable[[Arguments], list[Tensor]]]
"""Opens a file, given the names of its inputs; returns what runs the network."""


def open_onnx(
    path: Path, names: Iterable[str], providers: Sequence[str] = CPU
) -> Callable[[Arguments], list[Tensor]]:
    """Open an ONNX file in ONNX Runtime, with as many threads as torch has.

    Args:
        path: Of the file.
        names: Of its inputs, which are on the CPU.
        providers: What of ONNX Runtime executes it: the first what it can, the next the rest.

    Raises:
        CannotRun: If the first is not to be had, for which ONNX Runtime would take another.
    """
    runtime = needed("onnxruntime", "onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    # Else the threads of a session go on spinning after a run, for longer than most networks run,
    # and take the processors from whatever runs next: four sessions in turn took twice as long.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(str(path), options, providers=list(providers))
    if session.get_providers()[0] != providers[0]:
        raise CannotRun(f"{providers[0]} must start, but {session.get_providers()[0]} does instead")
    taken = {value.name for value in session.get_inputs()}
    names = list(names)

    def run(arguments: Arguments) -> list[Tensor]:
        inputs = {name: t for name, t in _named(names, arguments).items() if name in taken}
        return [torch.from_numpy(output) for output in session.run(None, _arrays(inputs))]

    return run


def open_int8(path: Path, names: Iterable[str]) -> Callable[[Arguments], list[Tensor]]:
    """Open an ONNX file in ONNX Runtime in int8, quantized on what it is run on first."""
    needed("onnxruntime", "onnxruntime")
    names, file = list(names), path.with_name("int8.onnx")

    def quantized(inputs: Mapping[str, object]) -> Callable[[Arguments], list[Tensor]]:
        quantize(path, file, [inputs])
        return open_onnx(file, names)

    return _made_for_the_first(names, quantized)


def open_openvino(path: Path, names: Iterable[str]) -> Callable[[Arguments], list[Tensor]]:
    """Open an IR or an ONNX file in OpenVINO, on the CPU, with as many threads as torch has.

    It computes in float32, also where the processor has faster ways that are less exact.
    """
    return run_openvino(read_openvino(path), names)


def open_openvino_int8(path: Path, names: Iterable[str]) -> Callable[[Arguments], list[Tensor]]:
    """Open a file in OpenVINO in int8, quantized on what it is run on first."""
    names = list(names)

    def quantized(inputs: Mapping[str, object]) -> Callable[[Arguments], list[Tensor]]:
        return run_openvino(quantize_openvino(read_openvino(path), [inputs]), names)

    return _made_for_the_first(names, quantized)


def read_openvino(path: Path) -> Any:
    """Return an IR or an ONNX file as OpenVINO's own network."""
    return _core(needed("openvino", "openvino")).read_model(path)


def run_openvino(network: Any, names: Iterable[str]) -> Callable[[Arguments], list[Tensor]]:
    """Return what runs OpenVINO's own network, as `open_openvino` does."""
    core = _core(needed("openvino", "openvino"))
    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = core.compile_model(network, "CPU", options).create_infer_request()
    taken = {name for value in request.model_inputs for name in value.names}
    names = list(names)

    def run(arguments: Arguments) -> list[Tensor]:
        inputs = {name: t for name, t in _named(names, arguments).items() if name in taken}
        outputs = request.infer(_arrays(inputs), share_inputs=True).values()
        return [torch.from_numpy(output) for output in outputs]

    return run


@cache
def _core(openvino: ModuleType) -> Any:
    """Return the one core of the process, which is never given back.

    The processor's plugin changes the stack that signal handlers run on. Of two plugins that are
    given back in the order in which they were made, the freed stack of the first stays in use, and
    the next signal with a handler, such as the end of a child process, kills the process.
    """
    return openvino.Core()


def open_program(path: Path, names: Iterable[str]) -> Callable[[Arguments], list[Tensor]]:
    """Open a program of `torch.export`."""
    del names  # forward knows its own
    network = torch.export.load(path).module()
    return lambda arguments: tensors_in(arguments.run(network))


def _made_for_the_first(
    names: list[str], make: Callable[[Mapping[str, object]], Callable[[Arguments], list[Tensor]]]
) -> Callable[[Arguments], list[Tensor]]:
    """Return what is made of the first arguments that it gets, by name, and runs on all."""
    made: list[Callable[[Arguments], list[Tensor]]] = []

    def run(arguments: Arguments) -> list[Tensor]:
        if not made:
            made.append(make(_arrays(_named(names, arguments))))
        return made[0](arguments)

    return run


def _named(names: list[str], arguments: Arguments) -> dict[str, Tensor]:
    return dict(zip(names, arguments.tensors, strict=True))


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, object]:
    return {name: tensor.numpy() for name, tensor in tensors.items()}
