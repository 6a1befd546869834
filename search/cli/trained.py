"""Files of weights: what torch and safetensors write, read as data."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from search.cli.output import complain
from sekron.forward.evaluation import one_line
from sekron.network.weights import load_weights

EXTRA = "_extra_state"
"""Last part of the names under which modules keep something else than tensors."""

N_NAMED = 8
"""Entries of a file that an error lists."""

DEEPEST = 16
"""Mappings within mappings in which a state dict is looked for."""


def load_trained(model: nn.Module, path: str) -> None:
    """Fill a network with the weights in a file; a line on stderr tells what was unwrapped.

    The state dict may be nested in a checkpoint, under whatever name, where only one in it fits.

    Raises:
        ValueError: If none fits, or several do; the names that were found are told.
        FileNotFoundError: If there is no such file.
    """
    loaded = _read(path)
    found = dict(_state_dicts(loaded))
    if not found:
        raise ValueError(
            f"{path} must be a state dict, a mapping of names to tensors, or hold one, got "
            f"{_kind(loaded)}."
        )
    fitting, refused = {}, []
    for entry, weights in found.items():
        try:
            fitting[entry] = load_weights(model, weights, f"{entry} in {path}" if entry else path)
        except ValueError as error:
            refused.append(error)
    if not fitting and len(found) == 1:
        raise refused[0]
    if len(fitting) != 1:
        fit = ", ".join(fitting) if fitting else "none"
        raise ValueError(
            f"{path} must hold one state dict that fits the network, but of its entries "
            f"{', '.join(found)} those that fit are: {fit}; save the one that is meant in a file "
            "of its own."
        )
    ((entry, renamed),) = fitting.items()
    if entry or renamed:
        what = [f"the weights in {entry}"] if entry else []
        what += [f"{renamed} and others alike"] if renamed else []
        complain(f"{path}: took {', '.join(what)}")


def load_tensors(path: str) -> dict[str, Tensor]:
    """Read tensors by their names, or a lone one under none, and run no code in the file.

    Raises:
        ValueError: If it holds something else.
        FileNotFoundError: If there is no such file.
    """
    loaded = _read(path)
    if isinstance(loaded, Tensor):
        return {"": loaded}
    if not _is_state_dict(loaded):
        raise ValueError(f"{path} must hold a tensor or tensors by names, got {_kind(loaded)}.")
    return loaded


def _read(path: str) -> object:
    """Read a file of safetensors or of torch, whatever it is called."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} must be a file, but there is none.")
    if path.endswith(".safetensors") or _is_safetensors(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} must be a safetensors file: {error}.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch remarks on the format of what is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} must be a state dict of tensors; anything else is refused, since reading it "
            "could run code. Save model.state_dict()."
        ) from error
    except Exception as error:  # whatever a cut file makes torch raise
        raise ValueError(
            f"{path} must be a whole file of torch or of safetensors, but reading it raised "
            f"{one_line(error)}"
        ) from error


def _is_safetensors(path: str) -> bool:
    """Whether a file starts as safetensors do: a length in eight bytes, then JSON."""
    with Path(path).open("rb") as file:
        return file.read(9)[8:] == b"{"


def _state_dicts(
    loaded: object, entry: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the state dicts in what was read, each with the names that lead to it."""
    if _is_state_dict(loaded):
        yield entry, loaded
    elif (
        isinstance(loaded, Mapping)
        and depth < DEEPEST
        and all(isinstance(name, str) for name in loaded)
    ):
        for name, value in loaded.items():
            yield from _state_dicts(value, f"{entry}[{name!r}]", depth + 1)


def _is_state_dict(loaded: object) -> TypeGuard[dict[str, Tensor]]:
    return (
        isinstance(loaded, dict)
        and any(isinstance(value, Tensor) for value in loaded.values())
        and all(
            isinstance(name, str) and (isinstance(value, Tensor) or name.endswith(EXTRA))
            for name, value in loaded.items()
        )
    )


def _kind(loaded: object) -> str:
    """Say what was read, that it is no state dict."""
    if not isinstance(loaded, Mapping):
        return type(loaded).__name__
    odd_first = sorted(loaded.items(), key=lambda item: isinstance(item[1], Tensor))
    pairs = [f"{name!r} ({type(value).__name__})" for name, value in odd_first]
    return ", ".join(pairs[:N_NAMED]) + ", …" * (len(pairs) > N_NAMED) if pairs else "nothing"
