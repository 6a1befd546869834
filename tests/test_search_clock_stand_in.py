"""The network that is timed for a plan: of other factors than its own, but of their size."""

import itertools

import pytest
import torch
from torch import nn

from search.clock.stand_in import stand_in
from sekron import Plan, Structure
from sekron.network.surgery import structures_of

SEKRON = Structure("sekron", ((8, 4, 3, 1), (2, 4, 1, 3)), (16,))
CP = Structure("cp", ((16, 1, 1, 1), (1, 16, 1, 1), (1, 1, 3, 3)), (24,))


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16))


@pytest.mark.parametrize("structure", [SEKRON, CP], ids=str)
def test_weights_are_as_large_as_the_dense_ones_and_no_two_alike(network, structure):
    with torch.no_grad():
        for layer, scale in zip(network[:4], (0.1, 1.0, 10.0, 100.0), strict=True):
            layer.weight.mul_(scale)
    plan = Plan({str(place): structure for place in range(4)})
    before = torch.get_rng_state()
    found = stand_in(network, network, plan)
    assert torch.equal(torch.get_rng_state(), before)
    assert structures_of(found) == dict(plan)
    weights = [layer.dense_weight() for layer in found[:4]]
    for weight, layer in zip(weights, network, strict=False):
        ratio = weight.square().mean() / layer.weight.square().mean()
        assert 0.5 < ratio.item() < 2.0
    for one, other in itertools.combinations(weights, 2):
        assert not torch.allclose(one / one.norm(), other / other.norm(), atol=0.01)


def test_a_plan_always_has_the_same_stand_in(network):
    plan = Plan({"0": CP, "2": SEKRON})
    one, other = (stand_in(network, network, plan).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_nothing_stay_nothing(network):
    nn.init.zeros_(network[1].weight)
    found = stand_in(network, network, Plan({"1": CP}))
    assert torch.equal(found[1].dense_weight(), network[1].weight)
