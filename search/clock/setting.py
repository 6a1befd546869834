"""What decides latencies besides the network, as it is here and now."""

from __future__ import annotations

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
        network: Any part of it that has parameters.
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
    first, device = tensors[0], processor_name()
    if first.is_cuda or (runtime in PROVIDERS and torch.cuda.is_available()):
        device = torch.cuda.get_device_name(first.device if first.is_cuda else None)
    return Setting(
        device=device,
        threads=torch.get_num_threads(),
        torch=str(torch.__version__),
        dtype=str(next(network.parameters()).dtype),
        layout=layout_of(first),
        input_shapes=tuple(tuple(a.shape) for a in tensors),
        runtime=runtime,
        runtime_version="" if runtime.startswith("torch") else version_of(runtime),
    )


def layout_of(tensor: Tensor) -> str:
    """Return in which order a tensor lies in memory: by its strides where it is none of torch's."""
    if tensor.is_contiguous():
        return "contiguous"
    last = CHANNELS_LAST.get(tensor.dim() - 2)
    if last is not None and tensor.is_contiguous(memory_format=last):
        return "channels_last"
    return str(tensor.stride())
