"""What a network's forward takes: one input, several in order, or several by name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sekron.forward.signature import takes_mapping
from sekron.forward.tensors import map_tensors, tensors_in


@dataclass(frozen=True, eq=False, slots=True)
class Arguments:
    """The arguments of one call of a network. Its length is the number of images.

    Attributes:
        positional: In order.
        named: By keyword.
    """

    positional: tuple[Any, ...] = ()
    named: Mapping[str, Any] = field(default_factory=dict)

    def run(self, network: nn.Module) -> Any:
        """Return what the network puts out for them."""
        return network(*self.positional, **self.named)

    @property
    def values(self) -> tuple[Any, ...]:
        """All arguments, the positional ones first."""
        return (*self.positional, *self.named.values())

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments and within them."""
        return tensors_in(self.values)

    def __len__(self) -> int:
        """Return the number of images: the length of the first tensor, else of the first list."""
        lists = [v for v in self.values if isinstance(v, list | tuple)]
        return next(map(len, _by_image(self.values) or lists), 1)

    @property
    def is_divisible(self) -> bool:
        """Whether each tensor goes through all images, so that some of these can be taken out."""
        own = _by_image(self.values)
        return 0 < len(own) == len(self.tensors) and all(len(v) == len(self) for v in own)

    def images(self, start: int, stop: int) -> Arguments:
        """Return the arguments for some of the images; for all where they are not divisible."""
        if not self.is_divisible:
            return self

        def cut(value: Any) -> Any:
            is_cut = isinstance(value, Tensor | Mapping)
            return map_tensors(lambda x: x[start:stop], value) if is_cut else value

        named = {name: cut(value) for name, value in self.named.items()}
        return Arguments(tuple(map(cut, self.positional)), named)

    def split(self, n_images: int) -> Iterator[Arguments]:
        """Yield the arguments for so many images at a time, as far as they are divisible."""
        step = n_images if self.is_divisible else len(self)
        for start in range(0, len(self), step):
            yield self.images(start, start + step)

    def joined(self, other: Arguments) -> Arguments | None:
        """Return the arguments for the images of both; None where they do not fit together."""
        pairs = list(zip(self.values, other.values, strict=False))
        fits = (
            self.is_divisible
            and other.is_divisible
            and len(self.positional) == len(other.positional)
            and self.named.keys() == other.named.keys()
            and all(_fit(a, b) for a, b in pairs)
        )
        if not fits:
            return None

        def join(a: Any, b: Any) -> Any:
            others = iter(tensors_in(b))
            is_joined = isinstance(a, Tensor | Mapping)
            return map_tensors(lambda x: torch.cat([x, next(others)]), a) if is_joined else a

        positional = tuple(map(join, self.positional, other.positional))
        return Arguments(positional, {k: join(v, other.named[k]) for k, v in self.named.items()})

    def __str__(self) -> str:
        """Return the shapes: of a lone tensor alone, else of each with its name."""
        if len(self.positional) == 1 and not self.named:
            return _text(self.positional[0])
        named = [f"{name}={_text(value)}" for name, value in self.named.items()]
        return ", ".join([*map(_text, self.positional), *named])


def _by_image(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors that stand alone or in a mapping: in a list each may be an image."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Mapping):
            found += _by_image(value.values())
        elif isinstance(value, Tensor) and value.dim() > 0:
            found.append(value)
    return found


def _fit(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.shape[1:] == b.shape[1:] and a.dtype == b.dtype
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(_fit(a[k], b[k]) for k in a)
    return a is b or (type(a) is type(b) and isinstance(a, str | int | float) and a == b)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name!r}: {_text(part)}' for name, part in value.items())}}}"
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


Inputs = Tensor | Sequence[Any] | Mapping[str, Any] | Arguments
"""What forward takes: a tensor, a sequence of positional or a mapping of keyword arguments."""


def as_arguments(inputs: Inputs) -> Arguments:
    """Return the arguments that inputs stand for; all entries of a sequence are positional ones.

    Raises:
        TypeError: If they are neither tensor, sequence nor mapping.
    """
    if isinstance(inputs, Arguments):
        return inputs
    if isinstance(inputs, Tensor):
        return Arguments((inputs,))
    if isinstance(inputs, Mapping):
        return Arguments((), dict(inputs))
    if isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
        return Arguments(tuple(inputs))
    raise TypeError(f"inputs must be a tensor, sequence or mapping, got {type(inputs).__name__}.")


def as_forward_takes(inputs: Inputs, network: nn.Module) -> Arguments:
    """Return the arguments that inputs stand for; a mapping may be the one that forward needs.

    Raises:
        TypeError: If they are neither tensor, sequence nor mapping.
    """
    found = as_arguments(inputs)
    is_mapping = found.named and not found.positional
    if not is_mapping or not takes_mapping(network, found.named):
        return found
    return Arguments((found.named if isinstance(inputs, Arguments) else inputs,))


def example_of(inputs: Inputs, network: nn.Module) -> Arguments:
    """Return the arguments that an example input of a network stands for.

    Raises:
        ValueError: If it is neither tensor, sequence nor mapping, or holds no image.
    """
    try:
        found = as_forward_takes(inputs, network)
    except TypeError as error:
        raise ValueError(
            "the example input must be a tensor, a tuple of positional arguments or a mapping of "
            f"keyword arguments, got {type(inputs).__name__}."
        ) from error
    if not found.values or any(tensor.shape[:1] == (0,) for tensor in found.tensors):
        what = str(found) or "nothing"
        raise ValueError(f"the example input must hold an image or more, got {what}.")
    return found
