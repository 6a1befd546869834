"""A compressed network in one file: its weights and the plan that rebuilds the architecture."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_model
from torch import nn

from sekron.network.plan import FORMAT, UNTOLD, Plan
from sekron.network.surgery import forms_of, rebuild, structures_of
from sekron.records import replacing


def save(model: nn.Module, path: str | Path) -> None:
    """Write a compressed network: weights and plan in one safetensors file, no pickle.

    Args:
        model: With factorized layers or without.
        path: Of the file.

    Raises:
        OSError: If the file cannot be written.
    """
    check_folder(path)
    plan = Plan(structures_of(model), forms_of(model))
    with replacing(Path(path)) as partial:
        save_model(model, str(partial), metadata={FORMAT: plan.to_json()})


def check_folder(path: str | Path) -> None:
    """Raise a FileNotFoundError unless the folder of a file to be written exists."""
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(f"{path} must be in a folder that exists; make it first.")


def load(model: nn.Module, path: str | Path) -> nn.Module:
    """Return the saved network, its architecture rebuilt on a copy of a fresh dense one.

    Args:
        model: The dense network, whatever its weights; not modified.
        path: Of a file written by `save`.

    Raises:
        ValueError: If the file is damaged, was not written by `save`, or belongs to another
            network; the first difference is named.
        FileNotFoundError: If there is none.
        TypeError: If the two are not a network and a path.
    """
    if not isinstance(model, nn.Module) or isinstance(path, nn.Module):
        raise TypeError(
            "`load` takes the dense network, then the path of a file, got "
            f"{type(model).__name__} and {type(path).__name__}; exchange them."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file: {error}.") from error
    if FORMAT not in metadata:
        raise ValueError(f"{path} must have been written by `sekron.save`: it holds no plan.")
    plan = Plan.from_json(metadata[FORMAT], f"the plan in {path}")
    _check_order(plan, str(path))
    network = rebuild(model, plan, {name: plan.form(name) for name in plan})
    load_weights(network, load_file(str(path)), str(path))
    return network


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


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy weights into a network of the same architecture.

    Tensors that the network shares between several names may be missing under all but one.

    Args:
        model: Modified in place, only when everything fits.
        weights: A state dict.
        source: What to call it in an error.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape; the first is named.
    """
    expected = model.state_dict(keep_vars=True)
    holders: dict[int, list[str]] = {}
    for name, tensor in expected.items():
        holders.setdefault(id(tensor), []).append(name)
    complete = dict(weights)
    for names in holders.values():
        known = next((name for name in names if name in weights), None)
        if known is None:
            raise ValueError(f"{source} must fit the network, but has no tensor {names[0]!r}.")
        complete.update({name: weights[known] for name in names if name not in weights})
    for name, tensor in complete.items():
        if name not in expected:
            raise ValueError(f"{source} must fit the network, which has no tensor {name!r}.")
        if tensor.shape != expected[name].shape:
            raise ValueError(
                f"{source} must fit the network, but tensor {name!r} has the shape "
                f"{tuple(tensor.shape)} instead of {tuple(expected[name].shape)}."
            )
    # With the versions of its modules, which a file of tensors does not have.
    expected.update(complete)
    model.load_state_dict(expected)
