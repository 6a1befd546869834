"""The commands as a user types them; every mistake is one line and exit code 2."""

import io
import os
import pickle
import shutil
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import search
import sekron
from search.cli.front_plot import HEIGHT
from search.folder.run_folder import RunFolder
from sekron.profiling.count import count_flops
from tests.forked import answers_of
from tests.trials import trials_in

NETWORKS = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Linear(20, 5),
    )

ready = small()
half = ready.half
number = 3

def score(network):
    return -sum(p.numel() for p in network.parameters())

def broken():
    raise RuntimeError("no\\nweights")

def nothing():
    return None
"""
SHAPE = ("--input", "2x3x11x9")
QUICK = (*SHAPE, "--trials", "2", "--max-length", "2", "--measure-seconds", "0")


class Payload:
    """Loading this runs a command."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a module of networks, weights of all sorts, and a finished run."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "cli_networks.py").write_text(NETWORKS)
    namespace = {}
    exec(NETWORKS, namespace)
    state = namespace["small"]().state_dict()
    save_file(state, folder / "good.safetensors")
    torch.save(state, folder / "good.pt")
    save_file({**state, "2.weight": state["2.weight"] * 2}, folder / "changed.safetensors")
    save_file({"x": torch.zeros(3)}, folder / "other.safetensors")
    save_file({**state, "2.weight": torch.zeros(2, 2)}, folder / "shape.safetensors")
    save_file({**state, "2.weight": state["2.weight"] / 0}, folder / "infinite.safetensors")
    torch.save({"params": state, "params_ema": state}, folder / "checkpoint.pt")
    torch.save({"x": Payload(folder / "marker")}, folder / "torch.pt")
    for name in ("plain.pt", "pickle.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Payload(folder / "marker")))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.json").write_text('{"format": "sekron.run"')
    return folder


@pytest.fixture
def sekron_command(files, monkeypatch, command_line):
    """Run a command in that directory and return its exit code, stdout and stderr."""
    monkeypatch.syspath_prepend(files)  # also takes back what the command adds
    monkeypatch.chdir(files)
    return command_line


@pytest.fixture
def run_folder(sekron_command, files):
    """A finished search for 60 % of the FLOPs, which is only read."""
    weights = ("--weights", "good.safetensors")
    arguments = ("search", "cli_networks:small", *weights, *QUICK, "--flops", "60%", "--run", "run")
    if not (files / "run" / "plan.json").exists():
        assert sekron_command(*arguments)[0] == 0
    return files / "run"


@pytest.mark.parametrize("model", ["small", "ready"])
@pytest.mark.parametrize("weights", [(), ("--weights", "good.pt")], ids=["fresh", "weights"])
def test_layers(sekron_command, model, weights):
    code, out, err = sekron_command("layers", f"cli_networks:{model}", *SHAPE, *weights)
    assert (code, err) == (0, "")
    assert "12x8x3x3" in out
    assert "`include` names it" in " ".join(out.split())
    flops = 8 * 27 * 63 + 12 * 72 * 63 + 12 * 63 + 48 * 20 + 20 * 5  # the pooling counts too
    assert f"{flops:,} FLOPs, 2,185 parameters" in out


def test_search_front_and_apply(sekron_command, run_folder, files):
    result = search.load(run_folder)
    code, out, _ = sekron_command("front", "run")
    assert code == 0
    assert len(out.splitlines()) == max(1 + len(result.pareto_front()), HEIGHT + 3)

    code, out, err = sekron_command("front", "run", "--csv")
    assert (code, err) == (0, "")
    frame = pd.read_csv(io.StringIO(out))
    pd.testing.assert_frame_equal(frame, result.pareto_front().drop(columns="plan"))

    for limits, budget in [
        ((), search.Budget(flops=0.6)),
        (("--flops", "70%", "--params", "0.5"), search.Budget(flops=0.7, params=0.5)),
        (("--params", "1500"), search.Budget(params=1500)),
    ]:
        code, out, _ = sekron_command("apply", "run", *limits, "--output", "small.safetensors")
        assert code == 0
        assert str(budget) in out
        small = sekron.load(sys.modules["cli_networks"].small(), files / "small.safetensors")
        plan = result.plan(budget)
        assert sekron.network.surgery.structures_of(small) == dict(plan)
        flops, _ = count_flops(small, (torch.zeros(1, 3, 11, 9),))
        assert result.profile.totals(plan)["flops"] == flops
        assert f"{flops:,} FLOPs" in out
        limit = budget.limit("flops", result.profile.flops)
        assert limit is None or flops <= limit


def trials_of(folder):
    found = trials_in(RunFolder(folder).storage())
    return {name: len(trials) for name, trials in found.items()}


def test_the_same_command_goes_on(sekron_command, run_folder, files):
    shutil.copytree(run_folder, files / "again")
    before = trials_of(files / "again")
    arguments = ("cli_networks:small", "--weights", "good.safetensors", "--run", "again")
    code, out, _ = sekron_command("search", *arguments, *QUICK, "--flops", "55%")
    assert code == 0
    assert "best plan for flops ≤ 55.0%: " in out
    assert "it is again/plan.json; next: sekron report again, or " in out
    assert trials_of(files / "again") == before


def test_what_chooses_trials_is_passed_on_and_kept(sekron_command, files):
    choice = ("--rank-multiple", "2", "--min-share", "0.01")
    arguments = ("search", "cli_networks:small", *QUICK, "--flops", "80%", "--run", "even")
    assert sekron_command(*arguments, *choice)[0] == 0
    plan = search.load(files / "even").best
    assert all(rank % 2 == 0 for structure in plan.values() for rank in structure.ranks)
    code, _, err = sekron_command(*arguments)
    assert code != 0
    assert "was searched with rank_multiple=2, got 1" in err


LAYERS = ("layers", "cli_networks:small", *SHAPE)
SEARCH = ("search", "cli_networks:small", *QUICK, "--run", "new")
APPLY = ("apply", "run", "--output", "small.safetensors")
MISTAKES = {
    "no-colon": (("layers", "small", *SHAPE), "a model reads 'module:attribute', got 'small'"),
    "module": (("layers", "no_such:x", *SHAPE), "must be importable, but raised ModuleNotFound"),
    "attribute": (("layers", "cli_networks:big", *SHAPE), "must have the attribute 'big'"),
    "number": (("layers", "cli_networks:number", *SHAPE), "must be a model or a function"),
    "raises": (("layers", "cli_networks:broken", *SHAPE), "but raised RuntimeError: no"),
    "returns": (("layers", "cli_networks:nothing", *SHAPE), "torch.nn.Module, got NoneType"),
    "shape-text": (("layers", "cli_networks:small", "--input", "3y4"), "an input reads '1x3x"),
    "input": (
        ("layers", "cli_networks:small", "--input", "1x4x11x9"),
        "the network must run on the example input, but on (1, 4, 11, 9) it raised",
    ),
    "pattern": ((*LAYERS, "--include", "layer*"), "the pattern 'layer*' must match a layer"),
    "no-file": ((*LAYERS, "--weights", "no.pt"), "no.pt must be a file"),
    "folder": ((*LAYERS, "--weights", "damaged"), "damaged must be a file"),
    "pickle": ((*LAYERS, "--weights", "plain.pt"), "plain.pt must be a state dict of tensors"),
    "torch-pickle": ((*LAYERS, "--weights", "torch.pt"), "torch.pt must be a state dict"),
    "renamed-pickle": ((*LAYERS, "--weights", "pickle.safetensors"), "must be a safetensors file"),
    "checkpoint": (
        (*LAYERS, "--weights", "checkpoint.pt"),
        "those that fit are: ['params'], ['params_ema']",
    ),
    "other": ((*LAYERS, "--weights", "other.safetensors"), "but has no tensor '0.weight'"),
    "other-shape": ((*LAYERS, "--weights", "shape.safetensors"), "'2.weight' has the shape (2, 2)"),
    "infinite": (
        (*SEARCH, "--weights", "infinite.safetensors", "--flops", "60%"),
        "the weight of layer '2' must be finite",
    ),
    "range": ((*SEARCH, "--flops", "150%"), "`flops` as a share must be in (0, 1], got 1.5"),
    "zero": ((*SEARCH, "--params", "0"), "`params` must be at least 1, got 0"),
    "limit": ((*SEARCH, "--flops", "half"), "a limit reads '50%', '0.5' or '900000', got 'half'"),
    "latency-range": (
        (*SEARCH, "--latency", "101%"),
        "`latency` as a share must be in (0, 1], got 1.01",
    ),
    "latency-text": ((*SEARCH, "--latency", "half"), "a limit reads '50%', '0.5' or '900000'"),
    "latency-ms": ((*SEARCH, "--latency-ms", "0"), "`latency_ms` must be positive, got 0.0"),
    "speedup": ((*SEARCH, "--speedup", "0.5"), "`speedup` must be at least 1, got 0.5"),
    "unmeasured": (  # `QUICK` does not measure
        (*SEARCH, "--latency", "60%"),
        "`measure_seconds` must be positive where latency is limited, else at least 0, and finite",
    ),
    "infeasible": ((*SEARCH, "--flops", "1%"), "`flops` must leave at least"),
    "trials": ((*SEARCH, "--trials", "-1"), "`--trials` must be at least 0, got -1"),
    "sampler": ((*SEARCH, "--sampler", "best"), "`sampler` must be one of"),
    "nothing": ((*SEARCH, "--exclude", "*"), "the network has nothing to replace"),
    "file-as-run": (("search", "cli_networks:small", *QUICK, "--run", "good.pt"), "good.pt"),
    "storage": pytest.param(
        (*SEARCH[:-1], "stored", "--storage", "sqlite:////no/such/place.db"), "no/such/place.db"
    ),
    "front": (("front", "no_run"), "no_run must be a run folder, but has no run.json"),
    "front-damaged": (("front", "damaged"), "damaged/run.json is damaged:"),
    "apply-damaged": (("apply", "damaged", "--output", "x"), "damaged/run.json is damaged:"),
    "apply-infeasible": ((*APPLY, "--flops", "1%"), "the budget must be reachable, got flops ≤ 1"),
    "apply-unmeasured": (
        (*APPLY, "--speedup", "1.5"),
        "a budget of latency needs measurements, got speedup ≥ 1.5, but this search has none",
    ),
    "apply-limit": ((*APPLY, "--params", "many"), "a limit reads"),
    "apply-output": pytest.param(
        ("apply", "run", "--output", "no/such/place.safetensors"), "no/such/place.safetensors"
    ),
}


@pytest.mark.parametrize(("arguments", "message"), [*MISTAKES.values()], ids=[*MISTAKES])
def test_a_mistake_is_one_line(sekron_command, run_folder, files, arguments, message):
    code, out, err = sekron_command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("sekron: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (files / "marker").exists()  # nothing was unpickled
    assert not (files / "new").exists()  # refused before the search began


def test_a_pickle_is_not_executed_in_a_real_process(files):
    commands = [((*LAYERS, "--weights", name), {}) for name in ("torch.pt", "plain.pt")]
    for code, out, err in answers_of(files, commands):
        assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (files / "marker").exists()


def test_apply_refuses_weights_that_changed_since_the_search(sekron_command, files):
    weights = files / "mine.safetensors"
    weights.write_bytes((files / "good.safetensors").read_bytes())
    arguments = ("cli_networks:small", "--weights", "mine.safetensors", "--run", "mine")
    assert sekron_command("search", *arguments, *QUICK, "--flops", "60%")[0] == 0
    weights.write_bytes((files / "changed.safetensors").read_bytes())
    code, _, err = sekron_command("apply", "mine", "--output", "small.safetensors")
    assert code == 2
    assert "layer '2' has other weights" in err


def test_a_folder_to_write_to_is_missed_before_anything_is_opened(sekron_command, files):
    code, _, err = sekron_command("apply", "nothing", "--output", "no/small.safetensors")
    assert code == 2
    assert "no/small.safetensors must be in a folder that exists" in err


def test_apply_of_a_search_from_python_says_what_to_do(sekron_command, small_run):
    code, _, err = sekron_command("apply", small_run, "--output", "small.safetensors")
    assert code == 2
    assert "was searched from Python, so its model is not known here; add --model" in err


def test_a_network_of_torchvision(sekron_command, torchvision, files):
    torch.manual_seed(0)
    model = torchvision.models.resnet18()
    torch.save(model.state_dict(), files / "r18.pt")
    spec = ("torchvision.models:resnet18", "--weights", "r18.pt", "--input", "1x3x64x64")
    limits = ("--flops", "90%", "--include", "layer1.*.conv1", "--max-length", "2", "--trials", "1")
    limits = (*limits, "--measure-seconds", "0")
    assert sekron_command("search", *spec, *limits, "--run", "r18")[0] == 0
    code, out, err = sekron_command("apply", "r18", "--output", "r18.safetensors")
    assert code == 0
    assert "2 of 21 layers replaced" in out
    assert "not counted by fvcore: aten::add_ (8×), aten::max_pool2d (1×)" in err
    small = sekron.load(torchvision.models.resnet18(), files / "r18.safetensors").eval()
    x = torch.randn(2, 3, 64, 64)
    expected = search.load(files / "r18").best.apply(model.eval())
    torch.testing.assert_close(small(x), expected(x))
