"""Layers whose attributes a network reads are found, and left dense."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from search import profile
from sekron.profiling.dry_run import reasons_to_keep


class Reader(nn.Module):
    """Calls all its layers, and reads something of some of them."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norms = nn.Conv2d(6, 6, 1)
        self.widths = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 6)])
        self.again = self.widths[1]
        self.called = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        y = self.norms(self.stem(x.to(next(self.parameters()).dtype))).mean((2, 3))
        y = y / self.norms.weight.norm() + self.called.bias
        y = self.widths[0](y).view(-1, self.widths[0].out_features)
        return self.head(self.called(F.relu(self.again(y))))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Reader().eval()


def test_what_is_read_besides_calling(model):
    x = torch.randn(2, 3, 5, 5)
    names = ["norms", "widths.0", "widths.1", "called", "head"]
    assert reasons_to_keep(model, names, (x,)) == {
        "norms": "the network reads its 'weight' besides calling it",
        "widths.0": "the network reads its 'out_features' besides calling it",
    }
    assert reasons_to_keep(nn.Linear(3, 2), [""], (torch.zeros(1, 3),)) == {}


class Picky(nn.Module):
    """Runs with layers of one class only, at one of two places."""

    def __init__(self):
        super().__init__()
        self.free, self.bound = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        if not isinstance(self.bound, nn.Linear):
            raise TypeError("bound must be a linear layer")
        return self.bound(self.free(x))


def test_a_network_that_asks_for_the_class_keeps_the_layer():
    found = reasons_to_keep(Picky(), ["free", "bound"], (torch.zeros(1, 3),))
    assert found == {"bound": "the network does not run without its class: TypeError"}


def test_such_layers_stay_dense_and_say_why(model):
    before = copy.deepcopy(model.state_dict())
    found = {layer.name: layer.reason for layer in profile(model, torch.randn(1, 3, 5, 5)).layers}
    assert found["norms"] == "the network reads its 'weight' besides calling it"
    assert found["widths.0"] == "the network reads its 'out_features' besides calling it"
    assert found["widths.1"] == found["called"] == ""
    assert list(model.state_dict()) == list(before)
    assert type(model.norms) is nn.Conv2d
