"""Inputs of layers, collected for several layers at a pass, against those of one at a time."""

import pytest
import torch
from torch import nn

from sekron.calibration import layer_inputs as module
from sekron.calibration.layer_inputs import AHEAD, InputsAhead, layer_inputs
from sekron.forward.inputs import as_arguments

NAMES = ["first", "shared", "third", "fourth", "fifth", "last"]


class Net(nn.Module):
    """Calls one layer twice, gives one its input by keyword, and works in place between them."""

    def __init__(self):
        super().__init__()
        for name in NAMES:
            self.add_module(name, nn.Linear(4, 4))
        self.n_runs = dict.fromkeys(NAMES, 0)
        for name in NAMES:
            self.get_submodule(name).register_forward_pre_hook(self.counted(name))

    def counted(self, name):
        def hook(*_):
            self.n_runs[name] += 1

        return hook

    def forward(self, x):
        x = self.first(x).relu_()
        x = self.shared(self.shared(x)).relu_()
        x = self.third(input=x).relu_()
        return self.last(self.fifth(self.fourth(x)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def batches():
    return [as_arguments(x) for x in torch.randn(20, 4).split(10)]


@torch.no_grad()
def by_hand(network, x):
    """The inputs of all layers, from the calculation itself."""
    first = network.first(x).relu()
    second = network.shared(first)
    third = network.shared(second).relu()
    fourth = network.third(third).relu()
    fifth = network.fourth(fourth)
    return [[x], [first, second], [third], [fourth], [fifth], [network.fifth(fifth)]]


@pytest.mark.parametrize("kept", [module.KEPT, 0], ids=["room", "no room"])
def test_every_layer_gets_its_inputs(network, batches, kept, monkeypatch):
    monkeypatch.setattr(module, "KEPT", kept)
    inputs = InputsAhead(network, NAMES, batches)
    for at, name in enumerate(NAMES):
        for place in (1, 0) if at == 2 else (0, 1):
            found = inputs.of(name, place)
            wanted = by_hand(network, batches[place].positional[0])[at]
            assert len(found) == len(wanted)
            assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_several_layers_share_a_pass_that_ends_at_the_last_of_them(network, batches):
    inputs = InputsAhead(network, NAMES, batches)
    for place in (0, 1):
        inputs.of("first", place)
    assert network.n_runs == {**dict.fromkeys(NAMES, 2), "shared": 4, "fifth": 1, "last": 1}
    for name in NAMES[1:AHEAD]:
        inputs.of(name, 0)
    assert network.n_runs["first"] == 2


def test_what_is_not_asked_for_in_its_turn_is_not_kept(network, batches):
    inputs = InputsAhead(network, NAMES, batches)
    inputs.of("first", 0)
    inputs.of("third", 0)
    before = network.n_runs["first"]
    inputs.of("shared", 0)  # out of turn: it was dropped when the third was asked for
    assert network.n_runs["first"] == before + 1


def test_a_layer_that_is_not_called_has_no_inputs(network, batches):
    network.unused = nn.Linear(4, 4)
    found = layer_inputs(network, ["unused", "first"], batches[0], {})
    assert found["unused"] == []
    assert len(found["first"]) == 1
