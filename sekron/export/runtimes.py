"""Runtimes: what runs a network, by name.

A runtime takes a network and the inputs that it shall run on, and returns the network ready to run.
It raises `CannotRun` for a network that it does not take, and ImportError where it is missing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sekron.export.onnx_graph import check_packages, write_onnx
from sekron.export.packages import needed, quiet
from sekron.export.program import trace
from sekron.export.readers import Reader, open_onnx, open_openvino
from sekron.export.refusal import CannotRun, reason_of
from sekron.forward.evaluation import untouched
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import tensors_in
from sekron.network.copying import copy_of


@dataclass(frozen=True, slots=True)
class Ready:
    """A network in a runtime.

    Attributes:
        runtime: Name of the runtime.
        version: Of the runtime.
        threads: That it runs on.
        run: Returns the tensors that the network puts out, in order, in evaluation.
    """

    runtime: str
    version: str
    threads: int
    run: Callable[[Arguments], list[Tensor]]


Runtime = Callable[[nn.Module, Arguments], Ready]


def torch_eager(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in torch as it is."""
    del arguments  # any will do
    network = copy_of(model).eval()
    return _in_torch("torch", network)


def torch_compile(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in `torch.compile`, compiled for these inputs."""
    with quiet():
        ready = _in_torch("torch.compile", torch.compile(copy_of(model).eval()))
        try:
            ready.run(arguments)
        except Exception as error:  # a compiler raises anything
            raise _refused("torch.compile", error) from error
    return ready


def onnxruntime(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in ONNX Runtime on the CPU, for inputs of these sizes."""
    package = needed("onnxruntime", "onnxruntime")
    return _exported("onnxruntime", package.__version__, open_onnx, model, arguments)


def openvino(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in OpenVINO on the CPU, for inputs of these sizes."""
    package = needed("openvino", "openvino")
    return _exported("openvino", package.__version__, open_openvino, model, arguments)


RUNTIMES: dict[str, Runtime] = {
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}


def make_ready(name: str, model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in a runtime.

    Args:
        name: One of `RUNTIMES`.
        model: Not modified, and nothing is shared with what runs.
        arguments: What it shall run on; of other sizes it need not run.

    Raises:
        ValueError: If there is no such runtime.
        CannotRun: If the runtime does not take the network, with the node and the reason.
        ImportError: If the runtime is not installed.
    """
    if name not in RUNTIMES:
        raise ValueError(f"`runtime` must be one of {', '.join(RUNTIMES)}, got {name!r}.")
    return RUNTIMES[name](model, arguments)


def _in_torch(name: str, network: Callable[..., object]) -> Ready:
    @torch.no_grad()
    def run(arguments: Arguments) -> list[Tensor]:
        return tensors_in(network(*arguments.positional, **arguments.named))

    return Ready(name, str(torch.__version__), torch.get_num_threads(), run)


def _exported(
    name: str, version: str, read: Reader, model: nn.Module, arguments: Arguments
) -> Ready:
    check_packages()
    with untouched(model), quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            program = trace(model, arguments, "none", of_tensors=True)
            write_onnx(program, path)
            run = read(path, program.inputs)
            run(arguments)
        except Exception as error:  # an exporter raises anything
            raise _refused(name, error) from error
    return Ready(name, version, torch.get_num_threads(), run)


def _refused(name: str, error: Exception) -> CannotRun:
    return CannotRun(f"{name} must take the network, but does not: {reason_of(error)}.")
