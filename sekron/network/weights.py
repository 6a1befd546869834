"""Weights that were read, in a network of the same architecture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sekron.network.tensor_names import fitted_names

N_AVERAGED = "n_averaged"
"""What torch's `AveragedModel` counts in, beside the tensors of the network in it."""

COUNTERS = frozenset({"num_batches_tracked", N_AVERAGED})
"""Last parts of the names of what a file need not hold."""

N_NAMED = 5
"""Names that an error lists."""


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str) -> str:
    """Copy weights into a network of the same architecture.

    All is taken that `load_state_dict` takes, and names into which a wrapper has put its own. A
    tensor that the network shares between several names may be missing under all but one; so may
    the counters of batch norm, which old files do not have, and what is no tensor. What of the
    network is on the `meta` device gets memory on the CPU.

    Args:
        model: Modified in place, only when everything fits.
        weights: A state dict.
        source: What to call it in an error.

    Returns:
        Which name was taken for which other one, of one of those that differ; empty if none does.

    Raises:
        ValueError: If a tensor is missing, unknown, of another shape, or of integers where the
            network has real numbers, the first is named; or if the network has tensors on
            the `meta` device that no state dict holds.
    """
    _check_meta(model)
    expected = model.state_dict(keep_vars=True)
    names = fitted_names(weights, expected)
    taken = {name: own for name, own in names.items() if name != own}
    given = {names[name]: tensor for name, tensor in weights.items()}
    if N_AVERAGED not in expected:
        given.pop(N_AVERAGED, None)
    state = OrderedDict(_completed(given, expected))
    # With the versions of its modules: those of the network where the file does not tell them.
    versions = None if taken else getattr(weights, "_metadata", None)
    state._metadata = versions or expected._metadata  # type: ignore[attr-defined]
    _check_kinds(state, expected, source)
    difference = _difference(state, expected)
    if difference and not _loads(model, state):
        raise ValueError(f"{source} must fit the network, {difference}; it has {_some(weights)}.")
    if not difference:
        _materialize(model)
        model.load_state_dict(state)
    return next((f"{name!r} for {own!r}" for name, own in taken.items()), "")


def must_keep_tensors(model: nn.Module, cure: str) -> None:
    """Refuse a network whose modules keep more than a file of tensors can hold.

    Args:
        model: The network.
        cure: What can be done instead.

    Raises:
        ValueError: If one does; it is named.
    """
    for name, kept in model.state_dict().items():
        if not isinstance(kept, Tensor):
            raise ValueError(
                f"the network must keep tensors alone to be saved, but {name!r} is of "
                f"{type(kept).__name__}; {cure}."
            )


def _completed(given: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add what a state dict may lack: further names, counters of batch norm, other than tensors."""
    holders: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        holders.setdefault(id(tensor), []).append(name)
    complete = {n: kept for n, kept in expected.items() if not isinstance(kept, Tensor)} | given
    for names in holders.values():
        known = next((name for name in names if name in given), None)
        if known is not None:
            complete.update({name: given[known] for name in names if name not in given})
        elif names[0].rpartition(".")[2] in COUNTERS:
            counter = expected[names[0]]
            count = torch.zeros_like(counter, device="cpu") if counter.is_meta else counter
            complete.update(dict.fromkeys(names, count))
    return complete


def _difference(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Return the first difference between two state dicts; empty if there is none."""
    for name in expected:
        if name not in state:
            return f"but has no tensor {name!r}"
    for name, tensor in state.items():
        if name not in expected:
            return f"which has no tensor {name!r}"
        if isinstance(tensor, Tensor) and tensor.is_meta:
            return f"but tensor {name!r} is on the `meta` device, which holds no values"
        own = expected[name]
        if isinstance(own, Tensor) and not is_lazy(own) and tensor.shape != own.shape:
            return (
                f"but tensor {name!r} has the shape {tuple(tensor.shape)} instead of "
                f"{tuple(own.shape)}"
            )
    return ""


def _check_kinds(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], source: str) -> None:
    """Refuse what torch would cast in silence, and what can then be anything but weights."""
    for name, tensor in state.items():
        own = expected.get(name)
        if (
            isinstance(own, Tensor)
            and isinstance(tensor, Tensor)
            and own.is_floating_point()
            and not tensor.is_floating_point()
        ):
            raise ValueError(
                f"{source} must fit the network, but tensor {name!r} is of {tensor.dtype} instead "
                f"of {own.dtype}."
            )


def _loads(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Load what torch takes all the same, as modules that know their old names do.

    Otherwise the network is as it was.
    """
    before = model.state_dict(keep_vars=True)
    tensors = [tensor.detach() for tensor in before.values() if isinstance(tensor, Tensor)]
    if any(tensor.is_meta or is_lazy(tensor) for tensor in tensors):
        return False
    values = [tensor.clone() for tensor in tensors]
    try:
        model.load_state_dict(state)
    except Exception:  # whatever the modules raise
        for tensor, value in zip(tensors, values, strict=True):
            tensor.copy_(value)
        return False
    return True


def _check_meta(model: nn.Module) -> None:
    """Refuse a network on the `meta` device with tensors that are not in its state dict."""
    held = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    unheld = [
        f"{module_name}.{name}".removeprefix(".")
        for module_name, module in model.named_modules()
        for name, tensor in (*vars(module).items(), *module._buffers.items())
        if isinstance(tensor, Tensor) and tensor.is_meta and id(tensor) not in held
    ]
    if unheld:
        raise ValueError(
            "what a network has on the `meta` device must be in its state dict, but no file holds "
            f"{_some(unheld)}; make the network on the CPU."
        )


def _materialize(model: nn.Module) -> None:
    """Give memory to tensors on the `meta` device; one that is shared stays shared."""
    made: dict[Tensor, Tensor] = {}

    def real(tensor: Tensor) -> Tensor:
        if tensor not in made:
            empty = torch.empty_like(tensor, device="cpu")
            is_parameter = isinstance(tensor, nn.Parameter)
            made[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return made[tensor]

    for module in model.modules():
        held: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for tensors in held:
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_meta:
                    tensors[name] = real(tensor)


def _some(names: Iterable[str]) -> str:
    """Name the first few of many."""
    listed = list(names)
    rest = f" and {len(listed) - N_NAMED} more" if len(listed) > N_NAMED else ""
    return ", ".join(map(repr, listed[:N_NAMED])) + rest if listed else "none"
