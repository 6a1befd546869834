"""A device that tensors only seem to be on, as strict as a real one.

They lie in the memory of the CPU and are computed there, so that every number is the CPU's to the
last bit. But `tensor.device` says otherwise, and what a real device refuses is refused: operands on
two devices, an array that shares memory, a generator of the CPU.
"""

from contextlib import ExitStack

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("xla", 0)
"""One that no code here asks for by name."""

MIXING = ("copy_", "index", "index_put_", "_index_put_impl_")
"""Operations that take tensors of the CPU beside others; the result is where the first one is."""

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "dot")

SEED = 1234
"""Of the numbers that are drawn on the device, where a generator of the CPU has no part in them."""


class PretendedDevice:
    """Within it, and in its thread alone, tensors may be moved to `DEVICE`.

    Attributes:
        n_fetched: How many tensors were moved from there to the CPU.
        left_on_cpu: Names of the matrix products and decompositions that ran on the CPU.
    """

    def __init__(self):
        self.n_fetched, self.left_on_cpu = 0, set()
        self._there = {}  # address of a storage -> weak reference, which keeps the address taken
        self._modes = ExitStack()

    def __enter__(self):
        self._modes.enter_context(_Operations(self))
        self._modes.enter_context(_Functions(self))
        return self

    def __exit__(self, *_):
        self._modes.close()

    def holds(self, tensor):
        """Whether a tensor is on the device."""
        return _storage(tensor)._cdata in self._there

    def put(self, value):
        """Let all tensors of a value be on the device."""
        for storage in map(_storage, _tensors(value)):
            self._there[storage._cdata] = StorageWeakRef(storage)
        return value

    def move(self, tensor, is_going):
        """Return a copy that is on the device, or on the CPU."""
        moved = self.put(tensor.clone())
        if not is_going:
            self.n_fetched += 1
            del self._there[_storage(moved)._cdata]
        return moved


class _Operations(TorchDispatchMode):
    """Refuses operands on two devices; what comes of operands on the device is there too."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        operands = _tensors((args, kwargs))[: 1 if name in MIXING else None]
        if len({self._device.holds(operand) for operand in operands if operand.dim() > 0}) > 1:
            raise RuntimeError(f"{name} must have all tensors on one device, got two")
        is_there = any(map(self._device.holds, operands))
        if not is_there:
            if name in PRODUCTS or "linalg" in name or "cholesky" in name:
                self._device.left_on_cpu.add(name)
            return func(*args, **kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:  # a device has a generator of its own
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                return self._device.put(func(*args, **kwargs))
        return self._device.put(func(*args, **kwargs))


class _Functions(TorchFunctionMode):
    """Tells of the device, and takes it, where the CPU would be told and taken."""

    def __init__(self, device):
        super().__init__()
        self._device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        is_there = bool(args) and isinstance(args[0], Tensor) and self._device.holds(args[0])
        if is_there and func == Tensor.device.__get__:
            return DEVICE
        if is_there and func == Tensor.is_cpu.__get__:
            return False
        if is_there and name in ("numpy", "__array__"):
            raise TypeError("an array must share memory with a tensor of the CPU, use `.cpu()`")
        if func in (Tensor.to, Tensor.cpu):
            return self._moved(func, is_there, args, kwargs)
        if kwargs.get("device") == DEVICE:
            if kwargs.get("generator") is not None:
                raise RuntimeError(f"{name} must have a generator of the device")
            return self._device.put(func(*args, **kwargs | {"device": "cpu"}))
        result = func(*args, **kwargs)
        return self._device.put(result) if is_there and name in COPYING else result

    def _moved(self, func, is_there, args, kwargs):
        wanted = [torch.device("cpu")] if func is Tensor.cpu else []
        for value in (*args[1:], *kwargs.values()):
            if isinstance(value, torch.device | str):
                wanted.append(torch.device(value))
            elif isinstance(value, Tensor):
                wanted.append(DEVICE if self._device.holds(value) else torch.device("cpu"))
        args = [torch.device("cpu") if value == DEVICE else value for value in args]
        kwargs = {k: "cpu" if value == DEVICE else value for k, value in kwargs.items()}
        result = func(*args, **kwargs)
        if not wanted or is_there == (wanted[0] == DEVICE):
            return result
        return self._device.move(result, wanted[0] == DEVICE)


COPYING = ("__deepcopy__", "new_tensor")
"""Methods whose result comes of no operation on the tensor."""


def _tensors(value):
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _storage(tensor):
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # within `vmap`
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor.untyped_storage()
