"""Ranks by training: the budget holds, what is left is what was trained, the rest is dense."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import search
import sekron
from search import funnel
from sekron.network.surgery import compressed
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from sekron.training.finetune import fit
from sekron.training.funnel import CLOSED
from sekron.training.funnel_penalty import Funnel
from sekron.training.gates import gated
from sekron.training.regularizer import Regularizer

RECIPE = sekron.Recipe(epochs=2, learning_rate=0.05)
IMAGE = torch.zeros(1, 3, 8, 8)


class Interrupted(Exception):
    pass


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
    assert sekron.network.surgery.structures_of(result.network) == dict(result.plan)
    assert [epoch.epoch for epoch in result.epochs] == [0, 1, 2]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_what_is_left_computes_what_was_trained(model, loader, monkeypatch):
    kept = {}

    def keeping(network, *arguments, **named):
        epochs = fit(network, *arguments, **named)
        kept["network"] = copy.deepcopy(network).eval()
        return epochs

    monkeypatch.setattr(importlib.import_module("sekron.training.funnel"), "fit", keeping)
    # Nothing closes in so short a time, and all of it fits: layers are cut to what they are.
    budget = search.Budget(flops=10**9)
    result = funnel(model, loader, IMAGE, budget=budget, recipe=RECIPE, progress=False)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            result.network.eval()(x), kept["network"](x), rtol=1e-4, atol=1e-4
        )
    assert dict(result.plan) == {}  # at full ranks nothing is saved


def test_a_strong_penalty_closes_what_the_budget_asks_for(model, loader, monkeypatch):
    left = []

    def watching(network, *arguments, **named):
        epochs = fit(network, *arguments, **named)
        left.append({name: x.structure(CLOSED) for name, x in gated(network).items()})
        return epochs

    monkeypatch.setattr(importlib.import_module("sekron.training.funnel"), "fit", watching)
    plans = [
        funnel(
            model,
            loader,
            IMAGE,
            budget=search.Budget(flops=share),
            penalty=Funnel(strength=strength),
            recipe=sekron.Recipe(epochs=30, learning_rate=0.05, decay=0.0),
            progress=False,
        ).plan
        for share, strength in ((0.6, 1.0), (0.4, 1.0), (0.4, 1e-6))
    ]
    closed = [dict(plan) == structures for plan, structures in zip(plans, left, strict=True)]
    assert closed == [True, True, False]  # the last has open gates dropped
    wide, narrow, _ = (profile(model, IMAGE).totals(plan)["flops"] for plan in plans)
    assert narrow < wide


def test_the_penalty_rests_while_the_budget_holds(model, loader):
    weak, strong = (
        funnel(
            model,
            loader,
            IMAGE,
            budget=search.Budget(flops=1.0),
            penalty=Funnel(strength=strength),
            recipe=RECIPE,
            progress=False,
        ).network.state_dict()
        for strength in (1e-6, 1.0)
    )
    assert all(torch.equal(strong[name], value) for name, value in weak.items())


def test_a_layer_that_stands_in_two_places_stays_one(loader):
    torch.manual_seed(0)
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        shared,
        nn.ReLU(),
        shared,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    budget = search.Budget(flops=0.5)
    result = funnel(model, loader, IMAGE, budget=budget, recipe=RECIPE, progress=False)
    assert set(result.plan) == {"1"}
    assert result.network[1] is result.network[3]
    assert isinstance(result.network[1], sekron.SeKronConv2d)


def test_a_folder_holds_one_funnel(model, loader, tmp_path):
    arguments = {"recipe": RECIPE, "folder": tmp_path, "progress": False}
    budget = search.Budget(flops=0.6)
    first = funnel(model, loader, IMAGE, budget=budget, **arguments)
    again = funnel(model, loader, IMAGE, budget=budget, **arguments)
    assert again.plan == first.plan
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(first.network.eval()(x), again.network.eval()(x))
    other = search.Budget(flops=0.61)
    for changed in ({"budget": budget, "penalty": Funnel("global")}, {"budget": other}):
        with pytest.raises(ValueError, match="with these settings, but holds another"):
            funnel(model, loader, IMAGE, **changed, **arguments)


def test_a_funnel_is_told_by_its_dense_weights_which_it_decomposes(
    model, loader, tmp_path, monkeypatch
):
    """Another machine rounds otherwise in the decomposition."""
    options = {"budget": search.Budget(flops=0.6), "recipe": RECIPE, "progress": False}
    first = funnel(model, loader, IMAGE, **options, folder=tmp_path)

    def rounding(model, structures):
        network = compressed(model, structures)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(1 + 1e-6)
        return network

    monkeypatch.setattr("sekron.training.funnel.compressed", rounding)
    again = funnel(model, loader, IMAGE, **options, folder=tmp_path)
    assert again.plan == first.plan
    assert again.epochs[1:] == first.epochs[1:]
    with torch.no_grad():
        next(model.parameters()).mul_(1 + 1e-6)
    with pytest.warns(UserWarning, match="began with other weights than these, and goes on from"):
        funnel(model, loader, IMAGE, **options, folder=tmp_path)


def test_a_budget_out_of_reach_is_refused_before_the_training(model, loader):
    with pytest.raises(search.InfeasibleBudget, match="with all ranks at one"):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.01), progress=False)


@pytest.mark.parametrize(
    ("limits", "got"), [({"latency": 0.5}, "latency"), ({}, "no limit")], ids=["latency", "none"]
)
def test_a_funnel_needs_a_budget_of_flops_or_parameters(model, loader, limits, got):
    with pytest.raises(ValueError, match=f"must limit FLOPs or parameters, got {got}"):
        funnel(model, loader, IMAGE, budget=search.Budget(**limits), progress=False)


def test_a_number_is_no_budget(model, loader):
    with pytest.raises(TypeError, match="must be a Budget"):
        funnel(model, loader, IMAGE, budget=0.5, progress=False)


class Decoder(nn.Module):
    """Wants a size of what its transposed layer puts out, and reads that layer's stride."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2), nn.ConvTranspose2d(8, 8, 3, stride=2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        y = self.up(self.down(x), output_size=x.shape[2:])
        return self.head(y.mean(dim=(2, 3)) * self.up.stride[0])


def test_a_layer_with_arguments_of_its_own_is_trained(loader):
    found = funnel(
        Decoder(), loader, IMAGE, budget=search.Budget(flops=0.7), recipe=RECIPE, progress=False
    )
    assert isinstance(found.network.up, sekron.SeKronConvTranspose)
    assert found.network(torch.zeros(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize("family", ["sekron", "chain", "cp", "tucker"])
def test_gates_close_in_every_family(model, loader, family):
    def modes(shape):
        sizes = [[n if i == k else 1 for i, n in enumerate(shape)] for k in range(len(shape))]
        return family, [*sizes, [1] * len(shape)] if family == "tucker" else sizes

    result = funnel(
        model,
        loader,
        IMAGE,
        budget=search.Budget(params=0.8),
        point=modes,
        recipe=RECIPE,
        progress=False,
    )
    assert {structure.family for structure in result.plan.values()} == {family}


def test_a_ring_is_no_start(model, loader):
    def halves(shape):
        return "ring", [[shape[0], *[1] * (len(shape) - 1)], [1, *shape[1:]]]

    with pytest.raises(ValueError, match="which a ring does as a chain: take `chain`"):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.5), point=halves, progress=False)


def test_the_penalty_follows_the_network_to_its_device(model, loader, monkeypatch):
    module = importlib.import_module("sekron.training.funnel")
    devices = []

    def moved(network, *arguments, **named):
        network.to("meta")
        regularizer, *_ = (x for x in arguments if isinstance(x, Regularizer))
        devices.append(regularizer.penalty(0.5).device.type)
        raise Interrupted

    monkeypatch.setattr(module, "fit", moved)
    monkeypatch.setattr(module, "_holds", lambda *arguments: arguments[-1] != CLOSED)
    with pytest.raises(Interrupted):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.5), progress=False)
    assert devices == ["meta"]


def test_gates_must_move(model, loader):
    with pytest.raises(ValueError, match="`gate_rate` must be positive, got 0"):
        funnel(model, loader, IMAGE, budget=search.Budget(flops=0.5), gate_rate=0, progress=False)


def test_there_must_be_a_layer_to_factorize(loader):
    with pytest.raises(ValueError, match="no layer that can be factorized"):
        funnel(nn.Sequential(nn.Conv2d(3, 4, 3)), loader, IMAGE, budget=search.Budget(flops=0.5))


def test_a_network_that_came_factorized_in_part_is_trained(model, loader):
    part = sekron.Plan({"3": sekron.Structure.parse("chain:12x1x3x1,1x8x1x3@8")}).apply(model)
    budget = search.Budget(params=0.9)
    result = funnel(part, loader, IMAGE, budget=budget, recipe=RECIPE, progress=False)
    assert "3" not in result.plan
    assert result.network(IMAGE).shape == (1, 4)
