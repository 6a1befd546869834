"""A network trained by two processes, each on images of its own."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sekron.inputs import Arguments
from sekron.tensors import map_tensors, tensors_in

LIMIT = timedelta(seconds=60)
"""For which one process waits for the other."""


def gradients_of_two(network: nn.Module, arguments: Arguments) -> Tensor:
    """Return the gradients that two processes agree on, in `DistributedDataParallel` over gloo.

    Args:
        network: Must survive pickling; not modified.
        arguments: Of the first process; the second gets them mirrored.

    Returns:
        All gradients in one vector, on the CPU.

    Raises:
        Exception: Whatever one of them raises.
    """
    sent = pickle.dumps((network, arguments))
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(2, mp_context=spawn) as processes,
    ):
        address = f"file://{folder}/meeting"
        first, second = [processes.submit(_process, rank, address, sent) for rank in (0, 1)]
        found = [torch.from_numpy(process.result()) for process in (first, second)]
    if not torch.equal(*found):
        raise ValueError("the two processes must agree on the gradients, but do not.")
    return found[0]


def gradients(network: nn.Module, arguments: Arguments) -> Tensor:
    """Return the gradients that two processes should agree on, computed in this one."""
    network = copy.deepcopy(network)
    both = [_gradients(network, shown) for shown in (arguments, _mirrored(arguments))]
    return (both[0] + both[1]) / 2


def _process(rank: int, address: str, sent: bytes) -> np.ndarray[tuple[int], np.dtype[Any]]:
    torch.set_num_threads(1)
    network, arguments = pickle.loads(sent)
    distributed.init_process_group("gloo", address, LIMIT, world_size=2, rank=rank)
    try:
        parallel = DistributedDataParallel(network)
        shown = _mirrored(arguments) if rank else arguments
        _gradients(parallel, shown)  # what goes unused is noticed the second time
        found: np.ndarray[tuple[int], np.dtype[Any]] = _gradients(parallel, shown).numpy()
        return found
    finally:
        distributed.destroy_process_group()


def _gradients(network: nn.Module, arguments: Arguments) -> Tensor:
    network.zero_grad()
    with torch.enable_grad():
        outputs = tensors_in(arguments.run(network))
        losses = [output.square().mean() for output in outputs if output.requires_grad]
        torch.autograd.backward(losses)
    found = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return torch.cat(found).cpu()


def _mirrored(arguments: Arguments) -> Arguments:
    def mirror(tensor: Tensor) -> Tensor:
        is_image = tensor.is_floating_point() and tensor.dim() > 2
        return tensor.flip(-1) if is_image else tensor

    return Arguments(*map_tensors(mirror, (arguments.positional, dict(arguments.named))))
