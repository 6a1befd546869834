"""What decides latencies besides the network, as it is here and now."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from search.clock.race import processor_name
from search.clock.times import Setting
from sekron.export.runtimes import PROVIDERS, version_of
from sekron.forward.inputs import Arguments
from sekron.layers.channels import CHANNELS_LAST


def setting_of(network: nn.Module, arguments: Arguments, runtime: str) -> Setting:
    """Return the setting in which a network is timed.

    Args:
        network: The whole; it has parameters.
        arguments: What it runs on.
        runtime: That runs it.

    Raises:
        ValueError: If the arguments hold no tensor.
    """
    tensors = arguments.tensors
    if not tensors:
        raise ValueError(
            f"the example input must hold a tensor to be timed, got {arguments}; or set "
            "`measure_seconds` to 0."
        )
    weights = list(network.parameters())
    devices = {tensor.device for tensor in (*tensors, *weights)}  # forward may move its inputs
    devices.discard(torch.device("meta"))
    return Setting(
        device=_names_of(devices, runtime),
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        dtype=f"{weights[0].dtype}{_autocast_on(devices)}",
        layout=layout_of(tensors[0]),
        input_shapes=tuple(tuple(a.shape) for a in tensors),
        runtime=runtime,
        runtime_version="" if runtime.startswith("torch") else version_of(runtime),
    )


def _names_of(devices: Collection[torch.device], runtime: str) -> str:
    """Return the names of all GPUs, else of the processor; then the types of other accelerators."""
    gpus: list[torch.device | None] = [device for device in devices if device.type == "cuda"]
    if not gpus and runtime in PROVIDERS and torch.cuda.is_available():
        gpus = [None]  # the current one
    names = sorted(map(torch.cuda.get_device_name, gpus)) or [processor_name()]
    others = {device.type for device in devices} - {"cpu", "cuda"}
    return ", ".join([*names, *sorted(others)])


def _autocast_on(devices: Collection[torch.device]) -> str:
    """Return to what autocast is set on devices; nothing where it is off."""
    types = {device.type for device in devices}
    dtypes = {torch.get_autocast_dtype(kind) for kind in types if torch.is_autocast_enabled(kind)}
    return f" in autocast to {', '.join(sorted(map(str, dtypes)))}" if dtypes else ""


def layout_of(tensor: Tensor) -> str:
    """Return in which order a tensor lies in memory: by its strides where it is none of torch's."""
    if tensor.is_contiguous():
        return "contiguous"
    last = CHANNELS_LAST.get(tensor.dim() - 2)
    if last is not None and tensor.is_contiguous(memory_format=last):
        return "channels_last"
    return str(tensor.stride())
