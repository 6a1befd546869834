"""Pruned networks meet their budget and keep what they put out."""

import copy

import pytest
import torch
from torch import nn

from baselines.pruning import pruned
from sekron.budget import Budget, InfeasibleBudget
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from tests.test_baselines_comparison import HALF, same_state, state


def prune(network, x, budget):
    return pruned(network, x, profile(network, x), budget)


@pytest.mark.parametrize("budget", [HALF, Budget(params=0.3), Budget(flops=0.4, params=0.2)])
def test_a_pruned_network_meets_its_budget_narrowly(small_network, small_input, budget):
    before, dense = state(small_network), profile(small_network, small_input)
    network = prune(small_network, small_input, budget)
    used = {
        "flops": count_flops(network, (small_input[:1],))[0],
        "params": sum(p.numel() for p in network.parameters()),
    }
    shares = {
        name: used[name] / budget.limit(name, dense.dense(name))
        for name in used
        if budget.limit(name, dense.dense(name)) is not None
    }
    assert 0.7 < max(shares.values()) <= 1.0
    assert network(small_input).shape == small_network(small_input).shape
    assert same_state(small_network, before)


def test_pruning_says_what_is_out_of_reach(small_network, small_input):
    with pytest.raises(InfeasibleBudget, match="must be reachable by pruning"):
        prune(small_network, small_input, Budget(flops=0.001))


class HeadFirst(nn.Module):
    """Its last linear layer in the order of modules is not the last that runs."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 7)
        self.conv = nn.Conv2d(3, 16, 3)
        self.hidden = nn.Linear(16, 16)

    def forward(self, x):
        return self.head(self.hidden(self.conv(x).mean((2, 3))).relu())


CONVOLUTIONAL = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 6, 1))


@pytest.mark.parametrize("network", [CONVOLUTIONAL, HeadFirst()], ids=["convolutional", "head"])
def test_pruning_keeps_the_outputs_of_any_network(network, small_input):
    pruned_network = prune(network.eval(), small_input, HALF)
    assert pruned_network(small_input).shape == network(small_input).shape


@pytest.mark.parametrize(("trainable", "grad"), [(False, True), (True, False)])
def test_pruning_does_not_depend_on_gradients(small_network, small_input, trainable, grad):
    expected = prune(small_network, small_input, HALF)
    with torch.set_grad_enabled(grad):
        same = copy.deepcopy(small_network).requires_grad_(trainable)
        network = prune(same, small_input, HALF)
    assert [p.shape for p in network.parameters()] == [p.shape for p in expected.parameters()]


def test_a_last_transposed_convolution_keeps_its_outputs(small_input):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 4, 2),
    )
    small = prune(network, small_input, HALF)
    assert small(small_input).shape == network(small_input).shape
