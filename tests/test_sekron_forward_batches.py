"""Of a batch the network gets what it takes, never a label, and never less than was given."""

import re

import pytest
import torch
from torch import nn

from sekron.forward.batches import arguments_and_labels, arguments_of
from sekron.forward.inputs import Arguments

X, S, Y = torch.randn(4, 3), torch.randn(4), torch.zeros(4, dtype=torch.long)


class One(nn.Module):
    def forward(self, x):
        return x


class Flagged(nn.Module):
    def forward(self, x, return_features=False, size=3):
        return x, return_features, size


class Two(nn.Module):
    def forward(self, x, scale):
        return x * scale


class Optional(nn.Module):
    def forward(self, x, scale=None):
        return x, scale


class NoneNeeded(nn.Module):
    def forward(self, pixel_values=None, mask=None, *, labels=None):
        return pixel_values, mask, labels


class Any(nn.Module):
    def forward(self, *inputs):
        return inputs[0]


def same(found, positional, **named):
    pairs = zip(found.positional, positional, strict=True)
    return all(a is b for a, b in pairs) and dict(found.named) == named


@pytest.mark.parametrize("network", [One(), Flagged(), nn.DataParallel(One())])
@pytest.mark.parametrize("batch", [X, (X,), [X, Y], (X, Y, "path")])
def test_a_network_of_one_input_gets_what_is_first(network, batch):
    assert same(arguments_of(batch, network, "it"), (X,))


@pytest.mark.parametrize("network", [Two(), nn.DataParallel(Two()), torch.compile(Two())])
@pytest.mark.parametrize("batch", [(X, S), [X, S, Y], ((X, S), Y), [[X, S]]])
def test_a_network_that_needs_two_gets_two(network, batch):
    assert same(arguments_of(batch, network, "it"), (X, S))


@pytest.mark.parametrize("network", [Optional(), NoneNeeded(), Any()])
def test_where_a_label_could_be_an_input_nothing_is_guessed(network):
    for batch in [(X, S), (X, S, Y)]:
        with pytest.raises(ValueError, match=r"must tell which of their . entries are inputs"):
            arguments_of(batch, network, "it")
    assert same(arguments_of(((X, S), Y), network, "it"), (X, S))
    assert same(arguments_of(((X,), Y), network, "it"), (X,))
    assert same(arguments_of((X,), network, "it"), (X,))
    assert same(arguments_of({"x": X}, network, "it"), (), x=X)
    assert same(arguments_of(({"x": X}, Y), network, "it"), (), x=X)


@pytest.mark.parametrize("example", [None, Arguments(({"image": X},))])
@pytest.mark.parametrize("network", [One(), nn.DataParallel(Flagged()), Optional()])
def test_a_mapping_of_names_that_forward_does_not_have_is_the_input(network, example):
    batch = {"image": X, "scale of it": S}
    assert same(arguments_of(batch, network, "it", example), (batch,))
    assert same(arguments_of((batch, Y), network, "it", example), (batch,))
    found, labels = arguments_and_labels((batch, Y), network, "it")
    assert same(found, (batch,))
    assert labels == (Y,)


@pytest.mark.parametrize("network", [Two(), nn.DataParallel(Optional())])
def test_a_list_that_is_one_argument_is_told_how_to_be_given(network):
    with pytest.raises(ValueError, match=r"^it start with a list of 3, more .*\(images,\), labels"):
        arguments_of(([X, X, X], Y), network, "it")


def test_an_example_tells_how_many_are_inputs():
    assert same(arguments_of((X, S), Optional(), "it", Arguments((X, S))), (X, S))
    assert same(arguments_of((X, Y), Optional(), "it", Arguments((X,))), (X,))
    for batch in [X, (X,), {"x": X}]:
        with pytest.raises(ValueError, match=r"it must hold what the example input does, \(4, 3\)"):
            arguments_of(batch, Optional(), "it", Arguments((X, S)))


@pytest.mark.parametrize(
    ("network", "batch", "example"),
    [
        (One(), X[0], Arguments((X,))),
        (One(), (X[None], Y), Arguments((X,))),
        (Two(), (X, S[0]), Arguments((X, S))),
        (One(), {"x": X[0]}, Arguments((), {"x": X})),
    ],
)
def test_an_example_tells_how_many_axes_there_are(network, batch, example):
    with pytest.raises(ValueError, match=r"^it must have as many axes as the example input, .*\.$"):
        arguments_of(batch, network, "it", example)


@pytest.mark.parametrize("batch", [None, X.numpy(), (), "x", 3])
def test_anything_else_is_refused(batch):
    text = f"keyword arguments, got {type(batch).__name__}."
    with pytest.raises(ValueError, match=f"^it must hold tensors, .*{re.escape(text)}$"):
        arguments_of(batch, One(), "it")


@pytest.mark.parametrize(
    ("network", "batch", "positional", "labels"),
    [
        (One(), X, (X,), ()),
        (One(), (X, Y), (X,), (Y,)),
        (Two(), (X, S), (X, S), ()),
        (Two(), (X, S, Y), (X, S), (Y,)),
        (Optional(), (X, Y), (X,), (Y,)),
        (Optional(), (X, S, Y), (X, S), (Y,)),
        (Optional(), ((X, S), Y), (X, S), (Y,)),
    ],
)
def test_labels_stand_last(network, batch, positional, labels):
    found, others = arguments_and_labels(batch, network, "it")
    assert same(found, positional)
    assert len(others) == len(labels)
    assert all(a is b for a, b in zip(others, labels, strict=True))


class Detector(nn.Module):
    def forward(self, images, targets=None):
        return images, targets


@pytest.mark.parametrize("n_images", [1, 2, 3])
@pytest.mark.parametrize("collate", [list, tuple])
def test_a_list_of_images_is_one_argument_where_the_example_says_so(n_images, collate):
    images, targets = collate([X] * n_images), collate([{"boxes": S}] * n_images)
    example = Arguments(([X, X],))
    for batch in ((images,), (images, targets), [images, targets], ((images,),)):
        assert same(arguments_of(batch, Detector(), "it", example), (images,))
    nested = ((images, targets), Y)  # where the example holds targets too
    assert same(arguments_of(nested, Detector(), "it", Arguments(([X], [{}]))), (images, targets))
