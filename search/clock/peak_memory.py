"""How much memory a forward pass needs at once, beyond what the network and its input hold."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sekron.forward.evaluation import untouched
from sekron.forward.inputs import Arguments, Inputs, example_of


def peak_activation_bytes(model: nn.Module, example_input: Inputs) -> int:
    """Return the most bytes of tensors alive at once in one forward pass, without gradients.

    Parameters, buffers, the input and whatever else was there before do not count, and neither do
    views of them. On the CPU every tensor that an operator returns counts, as long as anything
    holds its storage; scratch memory inside native kernels is not seen. On a CUDA device the
    allocator counts, in its own blocks, scratch memory included; its peak statistics are reset.

    Args:
        model: Left exactly as it was.
        example_input: Where and as it shall run; the whole batch counts. All CUDA devices that
            hold a part of it or of the model are measured, or the CPU where there is none.

    Returns:
        Bytes; the output is among them.

    Example:
        >>> peak_activation_bytes(nn.Sequential(nn.Linear(8, 5), nn.Linear(5, 3)), torch.ones(2, 8))
        64
    """
    arguments = example_of(example_input, model)
    own = *model.parameters(), *model.buffers()
    devices = {tensor.device for tensor in (*arguments.tensors, *own) if tensor.is_cuda}
    if devices:
        with untouched(model):
            return _allocated(model, arguments, devices)
    alive = _Alive()
    with untouched(model), alive:
        arguments.run(model)
    return alive.most


def _allocated(model: nn.Module, arguments: Arguments, devices: set[torch.device]) -> int:
    arguments.run(model)  # what the libraries allocate once and keep is there afterwards
    before = sum(torch.cuda.memory_allocated(device) for device in devices)
    for device in devices:
        torch.cuda.reset_peak_memory_stats(device)
    arguments.run(model)
    return sum(torch.cuda.max_memory_allocated(device) for device in devices) - before


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's has no types
    """Counts the bytes of the storages that operators made and that are still held."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now, self.most = 0, 0  # bytes
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operator; a storage that it returns and did not take is new."""
        taken = {id(storage) for storage in _storages((args, kwargs))}
        outputs = func(*args, **(kwargs or {}))
        for storage in _storages(outputs):
            if id(storage) not in taken and id(storage) not in self._references:
                self._register(storage)
        self.most = max(self.most, self.now)
        return outputs

    def _register(self, storage: torch.UntypedStorage) -> None:
        key, size_bytes = id(storage), storage.nbytes()

        def died(_: object) -> None:
            del self._references[key]
            self.now -= size_bytes

        # A storage keeps its Python object for as long as any tensor holds it.
        self._references[key] = weakref.ref(storage, died)
        self.now += size_bytes


def _storages(tree: object) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()
