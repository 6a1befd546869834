"""Ranks by training: the budget holds, what is left is what was trained, the rest is dense."""

import copy
import importlib
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import search
import sekron
from search import funnel
from search.cli import main
from search.funnel import CLOSED
from sekron.counting import count_flops
from sekron.finetuning import fit
from sekron.gates import Funnel, gated
from sekron.profiling import profile

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

    monkeypatch.setattr(importlib.import_module("search.funnel"), "fit", keeping)
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

    def watching(network, *arguments):
        epochs = fit(network, *arguments)
        left.append({name: x.structure(CLOSED) for name, x in gated(network).items()})
        return epochs

    monkeypatch.setattr(importlib.import_module("search.funnel"), "fit", watching)
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
    with pytest.raises(ValueError, match="with these settings, but holds another"):
        funnel(model, loader, IMAGE, budget=budget, penalty=Funnel("global"), **arguments)


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


NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 4),
    )
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Run `sekron funnel` beside a network and a file of data."""
    (tmp_path / "funnel_network.py").write_text(NETWORK)
    data = {"images": torch.randn(16, 3, 8, 8), "labels": torch.arange(16) % 4}
    save_file(data, tmp_path / "data.safetensors")
    save_file({"images": data["images"]}, tmp_path / "images.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        first = ("sekron", "funnel", "funnel_network:small", "--input", "1x3x8x8")
        monkeypatch.setattr(sys, "argv", [*first, "--epochs", "1", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return (exit_.value.code, *capsys.readouterr())

    return run


def test_the_command_writes_a_network_that_loads(command, tmp_path):
    output = ("--output", "small.safetensors")
    code, _, err = command("--data", "data.safetensors", "--flops", "60%", *output)
    assert code == 0
    assert "small.safetensors: 1 layers replaced" in err
    namespace = {}
    exec(NETWORK, namespace)
    small = sekron.load(namespace["small"](), tmp_path / "small.safetensors")
    dense, _ = count_flops(namespace["small"](), (IMAGE,))
    assert count_flops(small, (IMAGE,))[0] <= 0.6 * dense


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "images.safetensors", "--flops", "60%"), "must hold `images` (N, …) and `la"),
        (("--data", "data.safetensors", "--flops", "60%", "--batch-size", "0"), "at least 1, got"),
        (("--data", "data.safetensors", "--flops", "60%", "--schedule", "x"), "gate or global"),
        (("--data", "data.safetensors", "--flops", "1%"), "must be reachable"),
    ],
)
def test_bad_input_of_the_command_is_one_line(command, arguments, message):
    code, out, err = command(*arguments, "--output", "small.safetensors")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_without_accelerate_the_command_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    arguments = ("--data", "data.safetensors", "--flops", "60%", "--output", "small.safetensors")
    code, _, err = command(*arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("pip install 'sekron[finetune]'.")
