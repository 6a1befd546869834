"""Tensors are found in whatever networks take and return, and mapped without changing its shape."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sekron.forward.tensors import map_tensors, tensors_in

A, B = torch.tensor([1.0]), torch.tensor([2.0])
Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Found:
    boxes: Tensor
    scores: list[Tensor]
    count: int = 2


@pytest.mark.parametrize(
    "value",
    [
        (A, [B]),
        {"a": A, 3: {"deep": B}, "none": None},
        OrderedDict(a=A, b=B),
        Pair(A, B),
        Found(A, [B]),
        SimpleNamespace(a=A, b=(B, 7)),
        [A, Pair("text", Found(B, []))],
    ],
)
def test_all_tensors_are_found_and_mapped(value):
    assert list(map(id, tensors_in(value))) == [id(A), id(B)]
    mapped = map_tensors(lambda tensor: 10 * tensor, value)
    assert type(mapped) is type(value)
    assert tensors_in(mapped) == [10 * A, 10 * B]
    assert list(map(id, tensors_in(value))) == [id(A), id(B)]


@pytest.mark.parametrize("value", [None, 3, "text", {1, 2}, object(), Found])
def test_what_holds_none_stays_as_it_is(value):
    assert tensors_in(value) == []
    assert map_tensors(lambda tensor: tensor, value) is value
