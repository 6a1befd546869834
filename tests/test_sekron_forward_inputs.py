"""What forward takes: its images can be counted, taken out and joined."""

import re
from collections import UserDict

import pytest
import torch
from torch import nn

from sekron.forward.inputs import Arguments, example_of

X, S = torch.arange(24.0).reshape(4, 3, 2), torch.arange(4.0)


class Encoding(UserDict):
    """A mapping that is no dict, as tokenizers return them."""


class OfMapping(nn.Module):
    def forward(self, batch):
        return batch["x"] * 2


class OfNames(nn.Module):
    def forward(self, x, scale=None):
        return x if scale is None else scale


class OfAny(nn.Module):
    def forward(self, **named):
        return named["x"]


@pytest.mark.parametrize(
    ("inputs", "positional", "named"),
    [
        (X, (X,), {}),
        ((X, S), (X, S), {}),
        ([X, None], (X, None), {}),
        ({"x": X, "scale": S}, (), {"x": X, "scale": S}),
        (Encoding(x=X), (), {"x": X}),
        (Arguments((X,), {"scale": S}), (X,), {"scale": S}),
    ],
    ids=["tensor", "tuple", "list", "dict", "mapping", "both"],
)
def test_an_example_is_one_input_several_in_order_or_several_by_name(inputs, positional, named):
    found = example_of(inputs, OfNames())
    assert list(map(id, found.positional)) == list(map(id, positional))
    assert {name: id(v) for name, v in found.named.items()} == {n: id(v) for n, v in named.items()}


@pytest.mark.parametrize("inputs", [{"x": X}, Encoding(x=X), Arguments((), {"x": X})])
def test_a_mapping_is_the_argument_where_forward_needs_one_and_has_none_of_its_names(inputs):
    found = example_of(inputs, OfMapping())
    assert torch.equal(found.run(OfMapping()), 2 * X)
    assert len(found) == 4
    assert torch.equal(found.images(1, 3).run(OfMapping()), 2 * X[1:3])


@pytest.mark.parametrize("network", [OfNames(), OfAny()])
def test_a_mapping_of_names_that_forward_takes_is_no_argument(network):
    assert list(example_of({"x": X}, network).named) == ["x"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "keyword arguments, got NoneType."),
        (3, "keyword arguments, got int."),
        ("x", "keyword arguments, got str."),
        ((), "must hold an image or more, got nothing."),
        ({}, "must hold an image or more, got nothing."),
        (X[:0], "must hold an image or more, got (0, 3, 2)."),
        ({"x": X[:0], "scale": 2}, "must hold an image or more, got x=(0, 3, 2), scale=int."),
    ],
)
def test_anything_else_is_refused(inputs, message):
    with pytest.raises(ValueError, match=f"^the example input .*{re.escape(message)}$"):
        example_of(inputs, OfNames())


@pytest.mark.parametrize(
    ("arguments", "count", "is_divisible"),
    [
        (Arguments((X,)), 4, True),
        (Arguments((X, S), {"flag": True, "mask": None}), 4, True),
        (Arguments((X, torch.tensor(2.0))), 4, False),  # one number for all images
        (Arguments((), {"x": X, "table": torch.ones(7, 2)}), 4, False),
        (Arguments(([X[0], X[1]],)), 2, False),  # a list of images, as detectors take them
        (Arguments(([X[0], X[1]], X)), 4, False),
        (Arguments(({"x": X, "of": {"scale": S, "flag": True}},)), 4, True),
        (Arguments(({"x": X, "table": torch.ones(7, 2)},)), 4, False),
        (Arguments(({"x": [X[0], X[1]]},)), 1, False),
        (Arguments((object(),)), 1, False),
    ],
)
def test_images_are_taken_out_where_every_tensor_goes_through_all(arguments, count, is_divisible):
    assert (len(arguments), arguments.is_divisible) == (count, is_divisible)
    if is_divisible:
        some = arguments.images(1, 3)
        assert torch.equal(some.tensors[0], X[1:3])
        assert all(len(tensor) == 2 for tensor in some.tensors)
        assert [len(part) for part in arguments.split(3)] == [3, 1]
    else:
        assert arguments.images(1, 3) is arguments
        assert list(arguments.split(3)) == [arguments]


def test_what_is_split_can_be_joined():
    arguments = Arguments((X, None), {"scale": S, "flag": True})
    first, second = arguments.split(3)
    joined = first.joined(second)
    assert joined is not None
    assert torch.equal(joined.positional[0], X)
    assert torch.equal(joined.named["scale"], S)
    assert (joined.positional[1], joined.named["flag"]) == (None, True)


def test_a_mapping_that_is_split_can_be_joined():
    first, second = Arguments(({"x": X, "of": {"scale": S, "flag": True}},)).split(3)
    joined = first.joined(second)
    assert joined is not None
    (value,) = joined.positional
    assert torch.equal(value["x"], X)
    assert torch.equal(value["of"]["scale"], S)
    assert first.joined(Arguments(({"x": X, "of": {"scale": S, "flag": False}},))) is None


@pytest.mark.parametrize(
    "other",
    [
        Arguments((X, S), {"flag": False}),
        Arguments((X, S)),
        Arguments((X,), {"flag": True}),
        Arguments((X[:, :2], S), {"flag": True}),
        Arguments((X.long(), S), {"flag": True}),
        Arguments((X, torch.tensor(1.0)), {"flag": True}),
    ],
)
def test_what_differs_otherwise_is_not_joined(other):
    assert Arguments((X, S), {"flag": True}).joined(other) is None


def test_the_shapes_are_told():
    assert str(Arguments((X,))) == "(4, 3, 2)"
    assert str(Arguments((X, None), {"scale": S})) == "(4, 3, 2), NoneType, scale=(4,)"
    assert str(Arguments(({"x": X, "n": 2},))) == "{'x': (4, 3, 2), 'n': int}"
