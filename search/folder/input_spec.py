"""An input of a network as the command line gives it and a run folder records it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from sekron.forward.inputs import Arguments
from sekron.records import short

Integer = Literal["int64", "int32", "int16", "int8", "uint8"]
Dtype = Literal["float32", "float64", "float16", "bfloat16", Integer, "bool"]

MOST = 2**31
"""Numbers of an input, and integers that it may have."""

LAST = "channels_last"
"""Behind an input that has them last in memory, as torch calls that order."""

BELOW = 2
"""Of integers by default: any embedding has two rows, and a mask no other numbers."""

_SHAPE = re.compile(r"\d{1,10}(x\d{1,10}){0,31}", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One argument of a network's forward, by its shape; its numbers are made up.

    Attributes:
        shape: The batch first.
        name: Of the keyword argument; empty for a positional one.
        dtype: Name of torch's.
        below: Integers are random, from 0 on and below this.
        channels_last: Whether an image `(N, C, H, W)` lies with its channels last in memory.

    Raises:
        ValueError: If it is no input.
    """

    shape: tuple[int, ...]
    name: str = ""
    dtype: Dtype = "float32"
    below: int = BELOW
    channels_last: bool = False

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or prod(self.shape) > MOST:
            raise ValueError(
                f"an input must have sizes from 1 on and at most {MOST:,} numbers, got "
                f"{'x'.join(map(str, self.shape))!r}."
            )
        if self.name and not self.name.isidentifier():
            raise ValueError(f"an input's name must be one of Python's, got {short(self.name)!r}.")
        if self.dtype not in get_args(Dtype):
            raise ValueError(
                f"an input's dtype must be one of {', '.join(get_args(Dtype))}, got {self.dtype!r}."
            )
        most = BELOW
        if self.dtype in get_args(Integer):
            most = min(MOST, torch.iinfo(self.torch_dtype).max + 1)
        if not 1 <= self.below <= most:
            raise ValueError(
                f"an input of {self.dtype} must have its integers below 1 to {most}, got "
                f"{self.below}."
            )
        if self.channels_last and len(self.shape) != 4:
            raise ValueError(
                "an input with its channels last must have four sizes, got "
                f"{'x'.join(map(str, self.shape))!r}."
            )

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype itself."""
        return cast("torch.dtype", getattr(torch, self.dtype))

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """Read a shape, with a keyword argument's name before it or not, dtype and order behind it.

        Raises:
            ValueError: If it is none.

        Example:
            >>> InputSpec.parse("1x3x224x224").shape
            (1, 3, 224, 224)
            >>> InputSpec.parse("ids:1x128:int64:30522")
            InputSpec(shape=(1, 128), name='ids', dtype='int64', below=30522, channels_last=False)
        """
        parts = text.strip().split(":")
        is_last = parts[-1] == LAST
        if is_last:
            parts.pop()
        name = "" if not parts or _SHAPE.fullmatch(parts[0]) else parts.pop(0)
        shape, dtype, below = [*parts, *("", "float32", str(BELOW))[len(parts) :]][:3]
        if (
            text.lstrip().startswith(":")
            or len(parts) > 3
            or not _SHAPE.fullmatch(shape)
            or not (below.isdecimal() and len(below) <= 10)
        ):
            raise ValueError(
                "an input reads '1x3x224x224', 'name:1x3x224x224:channels_last', 'mask:1x128:bool' "
                f"or, for integers below 30522, 'ids:1x128:int64:30522', got {short(text)!r}."
            )
        sizes = tuple(map(int, shape.lower().split("x")))
        return cls(sizes, name, cast("Dtype", dtype), int(below), is_last)

    def __str__(self) -> str:
        """Return what `parse` reads."""
        is_bounded = self.below != BELOW
        kind = self.dtype if is_bounded or self.dtype != "float32" else ""
        below = str(self.below) if is_bounded else ""
        order = LAST if self.channels_last else ""
        sizes = "x".join(map(str, self.shape))
        return ":".join(filter(None, (self.name, sizes, kind, below, order)))

    def tensor(self, generator: torch.Generator) -> Tensor:
        """Return normal numbers, random integers or, for bool, a mask that hides nothing."""
        values = self._values(generator)
        return (
            values.contiguous(memory_format=torch.channels_last) if self.channels_last else values
        )

    def _values(self, generator: torch.Generator) -> Tensor:
        if self.torch_dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator).to(self.torch_dtype)
        if self.torch_dtype == torch.bool:
            return torch.ones(self.shape, dtype=torch.bool)
        return torch.randint(self.below, self.shape, generator=generator).to(self.torch_dtype)


def arguments_for(inputs: Sequence[InputSpec], tensors: Sequence[Tensor]) -> Arguments:
    """Return what a network is called with: a tensor for each of its inputs, in their order."""
    pairs = list(zip(inputs, tensors, strict=True))
    positional = tuple(tensor for spec, tensor in pairs if not spec.name)
    return Arguments(positional, {spec.name: tensor for spec, tensor in pairs if spec.name})
