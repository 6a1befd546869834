"""A network trained by two processes, each on images of its own."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from datetime import timedelta
from multiprocessing.connection import Connection, wait

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from sekron.export.refusal import CannotRun, reason_of
from sekron.forward.inputs import Arguments
from sekron.forward.tensors import map_tensors, tensors_in
from sekron.network.copying import copy_of

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
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in (0, 1):
            here, there = spawn.Pipe(duplex=False)
            task = (rank, os.path.join(folder, "meeting"), sent, there)
            processes.append(spawn.Process(target=_process, args=task, daemon=True))
            processes[-1].start()
            there.close()
            pipes.append(here)
        try:
            first, second = _received(pipes)
        finally:
            for process in processes:
                process.kill()
                process.join()
    if not torch.equal(first, second):
        raise ValueError("the two processes must agree on the gradients, but do not.")
    return first


def _received(pipes: list[Connection]) -> list[Tensor]:
    """Return what comes out of each pipe; whoever fails first ends the waiting."""
    found: dict[int, Tensor] = {}
    while len(found) < len(pipes):
        waiting = [pipe for place, pipe in enumerate(pipes) if place not in found]
        ready = wait(waiting, 2 * LIMIT.total_seconds())
        if not ready:
            raise TimeoutError(f"a process must end within {2 * LIMIT}, but did not.")
        for pipe in ready:
            assert isinstance(pipe, Connection)
            try:
                sent = pipe.recv()
            except EOFError as error:
                raise CannotRun(
                    "both processes must answer, but one ended before; a script must call `verify` "
                    "behind `if __name__ == '__main__':`."
                ) from error
            if isinstance(sent, str):
                raise CannotRun(sent)
            found[pipes.index(pipe)] = torch.from_numpy(sent)
    return [found[place] for place in range(len(pipes))]


def gradients(network: nn.Module, arguments: Arguments) -> Tensor:
    """Return the gradients that two processes should agree on, computed in this one."""
    network = copy_of(network)
    both = [_gradients(network, shown) for shown in (arguments, _mirrored(arguments))]
    return (both[0] + both[1]) / 2


def _process(rank: int, meeting: str, sent: bytes, pipe: Connection) -> None:
    """Send the gradients of one of the processes, or why there are none."""
    result: object
    try:
        torch.set_num_threads(1)
        network, arguments = pickle.loads(sent)
        # By an address torch would take `#` or `?` in the name of a folder for the end of it.
        store = distributed.FileStore(meeting, 2)  # type: ignore[attr-defined]  # untyped export
        store.set_timeout(LIMIT)
        distributed.init_process_group("gloo", timeout=LIMIT, world_size=2, rank=rank, store=store)
        parallel = DistributedDataParallel(network)
        shown = _mirrored(arguments) if rank else arguments
        _gradients(parallel, shown)  # what goes unused is noticed the second time
        result = _gradients(parallel, shown).numpy()
    except Exception as error:  # whatever the network raises
        result = reason_of(error)
    pipe.send(result)
    os._exit(0)  # what the network's modules do at the end can take minutes


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
