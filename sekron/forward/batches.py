"""What of a batch, as loaders yield it, is for the network, and what is labels."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sekron.forward.inputs import Arguments, Inputs, as_arguments

Batches = Iterable[Inputs]
"""Inputs in batches, as loaders and lists hold them; `arguments_of` tells what of them counts."""


def arguments_of(
    batch: Any, network: nn.Module, what: str, example: Arguments | None = None
) -> Arguments:
    """Return the arguments that a batch holds; labels behind them are left out.

    A tensor is the one input, and a mapping holds keyword arguments; it is itself the input where
    forward needs one and takes none of its names. The first entry of a sequence
    may be either of these, or itself a sequence of all positional arguments; what follows it are
    labels. Else the sequence holds the positional arguments and then labels; how many are arguments
    the example tells, or else the signature of forward. Where a label could be meant for an
    optional argument, that is refused: nothing is guessed.

    Args:
        batch: What the loader yields.
        network: That takes it.
        what: Name of the batches, for the errors.
        example: Arguments of the same kind, where there is one.

    Raises:
        ValueError: If the batch is nothing of these, or not of the example's kind.
    """
    # The first entry may be the first argument, not all of them.
    is_first = example is not None and _starts_as(batch, example)
    found = None if is_first else _told(batch, network, what)[0]
    if found is None and example is not None and example.positional:
        found = Arguments(tuple(batch[: len(example.positional)]))
    if found is None:
        if len(batch) > _n_required(network) and _optional(network):
            raise ValueError(
                f"{what} must tell which of their {len(batch)} entries are inputs, since forward "
                f"can do without {_optional(network)[0]!r}: give ((input, …),) or ((input, …), "
                "labels), or mappings of keyword arguments."
            )
        found = Arguments(tuple(batch[: _n_required(network)]))
    if example is not None and _kind(found) != _kind(example):
        raise ValueError(
            f"{what} must hold what the example input does, {example}, got {found}: give both the "
            "same arguments."
        )
    return found


def arguments_and_labels(
    batch: Any, network: nn.Module, what: str
) -> tuple[Arguments, tuple[Any, ...]]:
    """Return the arguments and the labels of a batch that holds both.

    It is read as `arguments_of` does, but where forward takes more than it needs, the last entry of
    a sequence is the labels.

    Args:
        batch: What the loader yields.
        network: That takes it.
        what: Name of the batches, for the errors.

    Returns:
        The arguments, and what follows them: nothing where the batch has no labels.

    Raises:
        ValueError: If the batch is nothing of these.
    """
    found, labels = _told(batch, network, what)
    if found is not None:
        return found, labels
    count = len(batch) - 1 if _optional(network) else _n_required(network)
    count = max(count, 1)
    return Arguments(tuple(batch[:count])), tuple(batch[count:])


def _told(
    batch: Any, network: nn.Module, what: str
) -> tuple[Arguments, tuple[Any, ...]] | tuple[None, tuple[()]]:
    """Return arguments and labels where the batch itself tells them apart; a flat one does not."""
    if isinstance(batch, Arguments | Tensor | Mapping):
        return _alone(batch, network), ()
    if not isinstance(batch, Sequence) or isinstance(batch, str | bytes) or not batch:
        raise ValueError(
            f"{what} must hold tensors, tuples with the inputs first, or mappings of keyword "
            f"arguments, got {type(batch).__name__}."
        )
    first, *others = batch
    takes_several = _n_required(network) + len(_optional(network)) > 1
    if isinstance(first, list | tuple) and takes_several and len(first) > _n_positional(network):
        raise ValueError(
            f"{what} start with a list of {len(first)}, more than the arguments of forward; a list "
            "that is one argument, of images say, is given as ((images,), labels)."
        )
    if isinstance(first, Mapping) or (isinstance(first, list | tuple) and takes_several):
        return _alone(first, network), tuple(others)
    return (None, ()) if others else (Arguments((first,)), ())


def _alone(inputs: Inputs, network: nn.Module) -> Arguments:
    """Return the arguments that inputs stand for; a mapping may be the one that forward needs."""
    if isinstance(inputs, Mapping):
        parameters = _parameters(network)
        is_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        is_named = is_any or any(parameter.name in inputs for parameter in parameters)
        if not is_named and len(_required(network)) == 1:
            return Arguments((inputs,))
    return as_arguments(inputs)


def _starts_as(batch: Any, example: Arguments) -> bool:
    """Whether a batch starts with a list as the example does, of images for a detector say."""
    if not isinstance(batch, list | tuple) or not batch or not example.positional:
        return False
    return _depth(batch[0]) == _depth(example.positional[0]) > 0


def _depth(value: Any) -> int:
    """Return how many lists lie around what is first in them."""
    return 1 + _depth(value[0]) if isinstance(value, list | tuple) and value else 0


def _kind(arguments: Arguments) -> tuple[int, set[str]]:
    return len(arguments.positional), set(arguments.named)


def _positional(network: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward that a positional argument may go to."""
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    return [parameter for parameter in _parameters(network) if parameter.kind not in named]


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    """Return the parameters of forward; none where Python does not know them."""
    while isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
        network = network.module
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    try:
        return list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):  # of a scripted network
        return []


def _n_positional(network: nn.Module) -> float:
    """Return the number of positional arguments that forward takes at most."""
    found = _positional(network)
    return math.inf if any(p.kind is p.VAR_POSITIONAL for p in found) else len(found)


def _n_required(network: nn.Module) -> int:
    """Return the number of inputs without which forward does not run, 1 where it names none."""
    return max(len(_required(network)), 1)


def _required(network: nn.Module) -> list[inspect.Parameter]:
    is_any = inspect.Parameter.VAR_POSITIONAL
    return [p for p in _positional(network) if p.default is p.empty and p.kind is not is_any]


def _optional(network: nn.Module) -> list[str]:
    """Return the parameters behind the first input that another may go to, but need not.

    One that is by default a flag or a number takes no input.
    """
    is_any = inspect.Parameter.VAR_POSITIONAL
    found = _positional(network)
    behind = found if found and found[0].kind is is_any else found[1:]
    return [p.name for p in behind if p.kind is is_any or p.default is None]
