"""What of a batch, as loaders yield it, is for the network, and what is labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from sekron.forward.inputs import Arguments, Inputs, as_forward_takes
from sekron.forward.signature import n_positional, n_required, optional

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
        if len(batch) > n_required(network) and optional(network):
            raise ValueError(
                f"{what} must tell which of their {len(batch)} entries are inputs, since forward "
                f"can do without {optional(network)[0]!r}: give ((input, …),) or ((input, …), "
                "labels), or mappings of keyword arguments."
            )
        found = Arguments(tuple(batch[: n_required(network)]))
    if example is not None and _kind(found) != _kind(example):
        raise ValueError(
            f"{what} must hold what the example input does, {example}, got {found}: give both the "
            "same arguments."
        )
    if example is not None and any(a != b for a, b in _axes(found, example)):
        raise ValueError(
            f"{what} must have as many axes as the example input, {example}, got {found}: the "
            "first axis counts the images."
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
    count = len(batch) - 1 if optional(network) else n_required(network)
    count = max(count, 1)
    return Arguments(tuple(batch[:count])), tuple(batch[count:])


def _told(
    batch: Any, network: nn.Module, what: str
) -> tuple[Arguments, tuple[Any, ...]] | tuple[None, tuple[()]]:
    """Return arguments and labels where the batch itself tells them apart; a flat one does not."""
    if isinstance(batch, Arguments | Tensor | Mapping):
        return as_forward_takes(batch, network), ()
    if not isinstance(batch, Sequence) or isinstance(batch, str | bytes) or not batch:
        raise ValueError(
            f"{what} must hold tensors, tuples with the inputs first, or mappings of keyword "
            f"arguments, got {type(batch).__name__}."
        )
    first, *others = batch
    takes_several = n_required(network) + len(optional(network)) > 1
    if isinstance(first, list | tuple) and takes_several and len(first) > n_positional(network):
        raise ValueError(
            f"{what} start with a list of {len(first)}, more than the arguments of forward; a list "
            "that is one argument, of images say, is given as ((images,), labels)."
        )
    if isinstance(first, Mapping) or (isinstance(first, list | tuple) and takes_several):
        return as_forward_takes(first, network), tuple(others)
    return (None, ()) if others else (Arguments((first,)), ())


def _starts_as(batch: Any, example: Arguments) -> bool:
    """Whether a batch starts with a list as the example does, of images for a detector say."""
    if not isinstance(batch, list | tuple) or not batch or not example.positional:
        return False
    return _depth(batch[0]) == _depth(example.positional[0]) > 0


def _depth(value: Any) -> int:
    """Return how many lists lie around what is first in them."""
    return 1 + _depth(value[0]) if isinstance(value, list | tuple) and value else 0


def _axes(found: Arguments, example: Arguments) -> Iterator[tuple[int, int]]:
    """Yield how many axes the tensors in the same place of both have."""
    places = [
        *zip(found.positional, example.positional, strict=True),
        *((value, example.named[name]) for name, value in found.named.items()),
    ]
    for own, other in places:
        if isinstance(own, Tensor) and isinstance(other, Tensor):
            yield own.dim(), other.dim()


def _kind(arguments: Arguments) -> tuple[int, set[str]]:
    return len(arguments.positional), set(arguments.named)
