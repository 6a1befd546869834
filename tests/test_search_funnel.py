"""Ranks by training: the budget holds, what is left is what was trained, the rest is dense."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import search
import sekron
from search.funnel import funnel
from sekron.finetuning import fit
from sekron.gates import Funnel
from sekron.profiling import count_flops, profile

pytest.importorskip("accelerate")
RECIPE = sekron.Recipe(epochs=2, learning_rate=0.05)
IMAGE = torch.zeros(1, 3, 8, 8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )


@pytest.fixture
def loader():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.randn(32, 3, 8, 8), torch.randint(4, (32,))), 8)


@pytest.mark.parametrize(
    "budget", [{"flops": 0.6}, {"params": 0.9}, {"flops": 0.9, "params": 0.8}, {"flops": 1.0}]
)
def test_the_budget_holds(model, loader, budget):
    before = copy.deepcopy(model.state_dict())
    budget = search.Budget(**budget)
    result = funnel(model, loader, IMAGE, budget=budget, recipe=RECIPE, progress=False)
    dense = profile(model, IMAGE)
    totals = dense.totals(result.plan)
    for name, total in totals.items():
        limit = budget.limit(name, dense.dense(name))
        assert limit is None or total <= limit
    assert count_flops(result.network, (IMAGE,))[0] == totals["flops"]
    assert sum(p.numel() for p in result.network.parameters()) == totals["params"]
    assert sekron.surgery.structures_of(result.network) == dict(result.plan)
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_is_left_computes_what_was_trained(model, loader, monkeypatch):
    kept = {}

    def keeping(network, *arguments):
        epochs = fit(network, *arguments)
        kept["network"] = copy.deepcopy(network).eval()
        return epochs

    monkeypatch.setattr("search.funnel.fit", keeping)
    # Nothing closes in so short a time, and all of it fits: layers are cut to what they are.
    budget = search.Budget(flops=10**9)
    result = funnel(model, loader, IMAGE, budget=budget, recipe=RECIPE, progress=False)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            result.network.eval()(x), kept["network"](x), rtol=1e-4, atol=1e-4
        )
    assert dict(result.plan) == {}  # at full ranks nothing is saved


def test_a_strong_penalty_closes_gates(model, loader):
    recipe = sekron.Recipe(epochs=30, learning_rate=0.05, decay=0.0)
    weak, strong = (
        funnel(
            model,
            loader,
            IMAGE,
            budget=search.Budget(flops=1.0),
            penalty=Funnel(strength=strength),
            recipe=recipe,
            progress=False,
        )
        for strength in (1e-6, 1.0)
    )
    dense = profile(model, IMAGE)
    assert dense.totals(strong.plan)["flops"] < dense.totals(weak.plan)["flops"]


def test_a_budget_out_of_reach_is_refused_before_the_training(model, loader):
    with pytest.raises(search.InfeasibleBudget, match="with all ranks at one"):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.01), progress=False)


def test_a_latency_is_no_budget_of_a_funnel(model, loader):
    with pytest.raises(ValueError, match="must limit FLOPs or parameters, got latency"):
        funnel(model, loader, IMAGE, budget=search.Budget(latency=0.5), progress=False)


def test_gates_must_move(model, loader):
    with pytest.raises(ValueError, match="`gate_rate` must be positive, got 0"):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.5), gate_rate=0, progress=False)


def test_there_must_be_a_layer_to_factorize(loader):
    with pytest.raises(ValueError, match="no layer that can be factorized"):
        funnel(nn.Sequential(nn.Conv2d(3, 4, 3)), loader, IMAGE, budget=search.Budget(flops=0.5))
