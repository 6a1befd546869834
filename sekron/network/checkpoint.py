"""A compressed network in one file: its weights and the plan that rebuilds the architecture."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sekron.network.checksum import CHECKSUM, UNKNOWN, check_checksum, write_checksum
from sekron.network.opening import opened
from sekron.network.plan import FORMAT, UNTOLD, Plan
from sekron.network.surgery import forms_of, rebuild, structures_of
from sekron.network.tensor_names import fitted_names
from sekron.network.weights import load_weights, must_keep_tensors
from sekron.records import check_folder, replacing


def save(model: nn.Module, path: str | Path) -> None:
    """Write a compressed network: weights and plan in one safetensors file, no pickle.

    Args:
        model: With factorized layers or without.
        path: Of the file.

    Raises:
        ValueError: If a weight of a factorized layer is not finite, or a module keeps what is no
            tensor.
        OSError: If the file cannot be written.
    """
    check_folder(path)
    plan = Plan(structures_of(model), forms_of(model))
    must_keep_tensors(model, "save its `state_dict()` by `torch.save`")
    _check_finite(model, "the network", {n for n in model.state_dict() if not _is_in(n, plan)})
    with replacing(Path(path)) as partial:
        save_file(_owned(model), partial, metadata={FORMAT: plan.to_json(), CHECKSUM: UNKNOWN})
        write_checksum(partial)


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Return the saved network, its architecture rebuilt on a copy of a fresh dense one.

    The file may come from a network within `DataParallel`, `DistributedDataParallel` or
    `torch.compile`, and so may the dense one; the result is wrapped as that is.

    Args:
        model: The dense network, whatever its weights; not modified. On the `meta` device it has
            none: the result is on the CPU then.
        path: Of a file written by `save`.

    Raises:
        ValueError: If the file is damaged, was not written by `save`, holds NaN or Inf where the
            network does not, or belongs to another one; the first difference is named. Also
            if a network on the `meta` device has tensors that no file holds.
        FileNotFoundError: If there is none.
        TypeError: If the two are not a network and a path.
    """
    if not isinstance(model, nn.Module) or isinstance(path, nn.Module):
        raise TypeError(
            "`load` takes the dense network, then the path of a file, got "
            f"{type(model).__name__} and {type(path).__name__}; exchange them."
        )
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} must be a file, but is something else.")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata, tensors = file.metadata() or {}, list(file.keys())
            numbers = sum(math.prod(file.get_slice(name).get_shape()) for name in tensors)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file: {error}.") from error
    if FORMAT not in metadata:
        raise ValueError(f"{path} must have been written by `sekron.save`: it holds no plan.")
    check_checksum(Path(path), metadata)
    plan = Plan.from_json(metadata[FORMAT], f"the plan in {path}")
    _check_order(plan, str(path))
    for layer, structure in plan.items():
        if structure.n_params > numbers:  # which would be made before any tensor is read
            raise ValueError(
                f"{path} must hold the factors of its layers, but layer {layer!r} has "
                f"{structure.n_params} numbers and the file {numbers}: it is damaged."
            )
    names = _in_network(plan, tensors, model)
    network = rebuild(
        model,
        {names[layer]: structure for layer, structure in plan.items()},
        {names[layer]: plan.form(layer) for layer in plan},
    )
    odd = _odd(network, set(map(names.__getitem__, plan)))
    load_weights(network, load_file(str(path)), str(path))
    _check_finite(network, str(path), odd)
    return network


def _owned(model: nn.Module) -> dict[str, Tensor]:
    """Return what a file holds: of each tensor one name, and memory of its own.

    Tensors that are one stay one when they are loaded. Two that only share their memory, or a part
    of a larger one, are each written whole.
    """
    state = reversed(model.state_dict(keep_vars=True).items())
    first = {id(kept): (name, kept.detach()) for name, kept in state}
    return {
        name: kept.clone(memory_format=torch.contiguous_format) for name, kept in first.values()
    }


def _in_network(plan: Plan, tensors: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Return layer of a plan -> its name in the network, where wrappers may have changed it.

    A layer may be one that appears only once a module is opened; others of these stay closed.
    """
    weights = {layer: f"{layer}.weight".removeprefix(".") for layer in plan}
    others = [name for name in tensors if name.rpartition("weights.")[0].rstrip(".") not in plan]
    known = {*model.state_dict(), *opened(model).state_dict()}
    names = fitted_names([*weights.values(), *others], known)
    return {
        layer: names[weight].removesuffix("weight").removesuffix(".")
        for layer, weight in weights.items()
    }


def _odd(network: nn.Module, layers: Collection[str]) -> set[str]:
    """Return the names of tensors that need not be finite: masks, as they come in the network.

    Args:
        network: Before it is filled.
        layers: Names of its factorized layers, whose weights stand for nothing yet.
    """
    parameters = dict(network.named_parameters(remove_duplicate=False))
    return {
        name
        for name, tensor in network.state_dict().items()
        if (name not in parameters if tensor.is_meta else not _is_finite(tensor))
        and not _is_in(name, layers)
    }


def _check_finite(network: nn.Module, source: str, odd: Collection[str]) -> None:
    for name, tensor in network.state_dict().items():
        if name not in odd and not _is_finite(tensor):
            raise ValueError(f"{source} must be finite, got NaN or Inf in tensor {name!r}.")


def _is_finite(tensor: object) -> bool:
    """Whether no number is NaN or Inf, as far as there are numbers that could be."""
    if not isinstance(tensor, Tensor) or is_lazy(tensor) or tensor.is_meta:
        return True
    return tensor.dtype.itemsize == 1 or bool(torch.isfinite(tensor).all())


def _is_in(tensor: str, layers: Collection[str]) -> bool:
    """Whether a tensor is one of the weights of some layers."""
    before, mark, _ = tensor.rpartition("weights.")
    return bool(mark) and before.rstrip(".") in layers


def _check_order(plan: Plan, source: str) -> None:
    """Refuse factors that stand in an order that nobody knows any more.

    The first version ordered equal ranks of a factor by the hash seed of its process, and did not
    tell the seed.
    """
    if plan.metric_digest != UNTOLD:
        return
    for name, structure in plan.items():
        if structure.family == "ring" or (structure.family == "sekron" and structure.length > 2):
            raise ValueError(
                f"{source} was written by version 1, which did not tell in which order it stored "
                f"the factors of layer {name!r}; apply its plan to the dense network again."
            )
