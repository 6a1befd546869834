"""Runtimes: what runs a network, by name.

A runtime takes a network and the inputs that it shall run on, and returns the network ready to run.
It raises `CannotRun` for a network that it does not take, and ImportError where it is missing.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sekron.export.int8 import nncf
from sekron.export.one_layer import Calls, NoCall, write_layer
from sekron.export.onnx_graph import check_packages, write_onnx
from sekron.export.packages import needed, quiet
from sekron.export.program import trace
from sekron.export.readers import Reader, open_int8, open_onnx, open_openvino, open_openvino_int8
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

PROVIDERS = {
    "onnxruntime-cuda": ("CUDAExecutionProvider",),
    "onnxruntime-tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
"""Runtimes on a CUDA device -> what of ONNX Runtime executes a network, first and for the rest."""

PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
"""Errors of the system that say nothing of a network."""

RECOMPILATIONS = 10_000
"""Of one piece of code, after which dynamo would run it eagerly, without a word."""


def torch_eager(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in torch as it is."""
    del arguments  # any will do
    network = copy_of(model).eval()
    return _in_torch("torch", network)


def torch_compile(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in `torch.compile`, compiled for these inputs."""
    limits = {"recompile_limit": RECOMPILATIONS, "accumulated_recompile_limit": RECOMPILATIONS}
    with quiet(), torch._dynamo.config.patch(limits):
        ready = _in_torch("torch.compile", torch.compile(copy_of(model).eval()))
        try:
            ready.run(arguments)
        except Exception as error:  # a compiler raises anything
            _must_not_pass(error)
            raise _refused("torch.compile", error) from error
    return ready


def onnxruntime(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in ONNX Runtime on the CPU, for inputs of these sizes."""
    return _exported("onnxruntime", open_onnx, model, arguments)


def onnxruntime_int8(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in ONNX Runtime in int8, quantized on these inputs.

    That is for the clock: for the accuracy of a network other inputs are to be taken.
    """
    return _exported("onnxruntime-int8", open_int8, model, arguments)


def onnxruntime_cuda(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in ONNX Runtime on a CUDA device, for inputs of these sizes.

    Network and inputs are on the CPU: what a run takes has the way to the device and back in it.
    """
    return _on_gpu("onnxruntime-cuda", model, arguments)


def onnxruntime_tensorrt(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in TensorRT by ONNX Runtime, as `onnxruntime_cuda` does."""
    return _on_gpu("onnxruntime-tensorrt", model, arguments)


def openvino(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in OpenVINO on the CPU, for inputs of these sizes."""
    return _exported("openvino", open_openvino, model, arguments)


def openvino_int8(model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in OpenVINO in int8, quantized on these inputs by nncf.

    That is for the clock, as `onnxruntime_int8` is.
    """
    return _exported("openvino-int8", open_openvino_int8, model, arguments)


RUNTIMES: dict[str, Runtime] = {
    "torch": torch_eager,
    "torch.compile": torch_compile,
    "onnxruntime": onnxruntime,
    "onnxruntime-int8": onnxruntime_int8,
    "onnxruntime-cuda": onnxruntime_cuda,
    "onnxruntime-tensorrt": onnxruntime_tensorrt,
    "openvino": openvino,
    "openvino-int8": openvino_int8,
}


def version_of(name: str) -> str:
    """Return the version of a runtime.

    Raises:
        ValueError: If there is no such runtime.
        ImportError: If it is not installed, or what exports to it is not, or it has no device.
    """
    if name not in RUNTIMES:
        raise ValueError(f"`runtime` must be one of {', '.join(RUNTIMES)}, got {name!r}.")
    package = re.split("[.-]", name)[0]
    if package == "torch":
        return str(torch.__version__)
    check_packages()
    module = needed(package, package)
    for provider in PROVIDERS.get(name, ()):
        available = module.get_available_providers()
        if provider not in available:
            raise ImportError(
                f"{name} must have ONNX Runtime's {provider}, which has {', '.join(available)}; "
                "pip install onnxruntime-gpu in the place of onnxruntime."
            )
    if name == "openvino-int8":
        nncf()
    if name in PROVIDERS and not torch.cuda.is_available():
        raise ImportError(f"{name} must have a CUDA device, but torch sees none.")
    return str(module.__version__)


def make_ready(name: str, model: nn.Module, arguments: Arguments) -> Ready:
    """Make a network ready in a runtime.

    Args:
        name: One of `RUNTIMES`.
        model: Not modified, and nothing is shared with what runs; `Calls` of a single layer are
            exported in a quicker way.
        arguments: What it shall run on; of other sizes it need not run.

    Raises:
        ValueError: If there is no such runtime.
        CannotRun: If the runtime does not take the network, with the node and the reason.
        ImportError: If the runtime is not installed.
    """
    version_of(name)
    return RUNTIMES[name](model, arguments)


def _in_torch(name: str, network: Callable[..., object]) -> Ready:
    @torch.no_grad()
    def run(arguments: Arguments) -> list[Tensor]:
        return tensors_in(network(*arguments.positional, **arguments.named))

    return Ready(name, version_of(name), torch.get_num_threads(), run)


def _on_gpu(name: str, model: nn.Module, arguments: Arguments) -> Ready:
    return _exported(name, partial(open_onnx, providers=PROVIDERS[name]), model, arguments)


def _exported(name: str, read: Reader, model: nn.Module, arguments: Arguments) -> Ready:
    with untouched(model), quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            run = read(path, _written(model, arguments, path))
            run(arguments)
        except Exception as error:  # an exporter raises anything
            _must_not_pass(error)
            raise _refused(name, error) from error
    return Ready(name, version_of(name), torch.get_num_threads(), run)


def _written(model: nn.Module, arguments: Arguments, path: Path) -> Iterable[str]:
    """Write an ONNX file; return the names of its inputs."""
    if isinstance(model, Calls | NoCall):
        return write_layer(model, arguments.positional, path)
    program = trace(model, arguments, "none", of_tensors=True)
    write_onnx(program, path)
    return program.inputs


def _must_not_pass(error: BaseException) -> None:
    """Raise what comes of a disk or a memory that is full now, which no network is to blame for."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) in PASSING:
            raise cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _refused(name: str, error: Exception) -> CannotRun:
    return CannotRun(f"{name} must take the network, but does not: {reason_of(error)}.")
