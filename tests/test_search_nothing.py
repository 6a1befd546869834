"""Nothing to search, nothing found, no images: a reason or one line, never an arithmetic error."""

from itertools import pairwise

import pytest
import torch
from torch import nn

import baselines
import search
import sekron
from search.front.frames import NOTHING_FOUND, layers_frame
from search.per_layer.space import Space
from sekron.network.eligibility import is_vector
from sekron.structures.families import FAMILIES
from tests.trained import images_and_labels, networks, recipe

NETWORKS = """
import torch
from torch import nn

def tiny():
    # The layer that is searched is so small that no structure costs less.
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1))

activation = nn.ReLU()
"""

NAMES = {}
exec(NETWORKS, NAMES)

VECTOR = "its weight is a vector, which has no rank"

ARGUMENTS = {"budget": search.Budget(flops=1.0), "measure_seconds": 0, "progress": False}


def convolutions(*channels):
    torch.manual_seed(0)
    layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels)]
    return nn.Sequential(*layers)


@pytest.fixture
def images():
    torch.manual_seed(1)
    return torch.randn(2, 3, 7, 5)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(5, 1, 1),
        nn.Conv2d(1, 5, 1),
        nn.Conv2d(1, 1, 1),
        nn.Conv2d(1, 1, (1, 3)),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(5, 1, (3, 1)),
        nn.Conv2d(6, 9, 1, groups=3),
        nn.Conv2d(3, 9, 1, groups=3),
        nn.ConvTranspose2d(3, 9, 1, groups=3),
        nn.ConvTranspose2d(5, 1, 1),
        nn.Conv1d(1, 7, 1),
        nn.Linear(7, 1),
        nn.Linear(1, 1),
        nn.Linear(7, 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 3])
def test_a_layer_has_structures_exactly_if_its_weight_is_no_vector(layer, family, length):
    groups = getattr(layer, "groups", 1)
    block = (layer.weight.shape[0] // groups, *layer.weight.shape[1:])
    assert bool(Space(block, length, (family,)).templates()) == (not is_vector(layer))


@pytest.mark.parametrize("n_trials", [0, 3])
def test_a_vector_stays_dense_beside_a_layer_that_is_searched(images, n_trials):
    network = convolutions(3, 16, 16).append(nn.Conv2d(16, 1, 1))
    result = search.run(network, images, n_trials=n_trials, **ARGUMENTS)
    layers = result.layers().set_index("layer")
    assert list(layers["status"]) == ["dense", "searched", "dense"]
    assert layers.loc["2", "reason"] == VECTOR
    assert set(result.candidates()["layer"]) == {"1"}
    small = result.plan(search.Budget(params=0.7)).apply(network)
    assert type(small[2]) is nn.Conv2d


def test_vectors_alone_are_nothing_to_replace(images):
    network = nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 8, 1))
    with pytest.raises(ValueError, match=f"^the network has nothing to replace: 0: {VECTOR}; 1: "):
        search.run(network, images, n_trials=2, **ARGUMENTS)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"score": lambda _: 1.0, "n_network_trials": 0},
        {"measure_seconds": 0.1, "budget": search.Budget(latency=1.0)},
        {"calibrated": True},
    ],
    ids=["plain", "scored", "timed", "calibrated"],
)
@pytest.mark.parametrize("n_trials", [0, 2])
def test_a_search_that_finds_nothing_has_the_dense_network(images, tmp_path, settings, n_trials):
    network, settings = NAMES["tiny"](), {**ARGUMENTS, **settings}
    if settings.pop("calibrated", False):
        settings["calibration"] = [images]
    result = search.run(network, images, n_trials=n_trials, run=tmp_path, **settings)
    for found in (result, search.load(tmp_path)):
        assert list(found.layers()["reason"])[1] == NOTHING_FOUND
        assert list(found.layers()["status"]) == ["dense", "dense"]
        assert list(found.candidates()["error"]) == [0.0]
        assert list(found.pareto_front()["flops_ratio"]) == [1.0]
        assert dict(found.best) == {}
    assert torch.equal(result.best.apply(network)(images), network(images))
    with pytest.raises(
        search.InfeasibleBudget, match=r"the least of this search is params 1\.0000"
    ):
        result.plan(search.Budget(params=0.9))


def test_ranks_that_no_structure_has(images):
    result = search.run(convolutions(3, 8, 8), images, rank_multiple=999, n_trials=1, **ARGUMENTS)
    assert list(result.layers()["reason"])[1] == NOTHING_FOUND


@pytest.mark.parametrize("kind", [lambda x: x, lambda x: (x,)], ids=["tensor", "tuple"])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: search.profile(convolutions(3, 8, 8), x),
        lambda x: search.run(convolutions(3, 8, 8), x, n_trials=0, **ARGUMENTS),
        lambda x: baselines.compare(convolutions(3, 8, 8), x, search.Budget(flops=0.5)),
    ],
    ids=["profile", "run", "compare"],
)
def test_an_example_without_images_is_refused(images, call, kind):
    message = r"^the example input must hold an image or more, got .*\(0, 3, 7, 5\)"
    with pytest.raises(ValueError, match=message):
        call(kind(images[:0]))


def test_a_network_without_parameters_has_shares_of_zero(images):
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LazyLinear(3)

        def forward(self, x):
            return x

    frame = layers_frame(search.profile(Unused(), images))
    assert list(frame["flops_share"]) == list(frame["params_share"]) == [0.0]


def test_a_network_without_costs_is_not_compared(images):
    with pytest.raises(ValueError, match=r"^the network must have weights to compress, but has no"):
        baselines.compare(nn.ReLU(), images, search.Budget(flops=0.5))


@pytest.mark.usefixtures("fresh_process")
def test_an_epoch_without_batches():
    class Once:
        """Has batches for one epoch only, whatever it says."""

        def __init__(self):
            images, labels = images_and_labels()
            self.batches = iter([(images, labels)])

        def __len__(self):
            return 1

        def __iter__(self):
            yield from self.batches

    _, small = networks()
    with pytest.raises(ValueError, match=r"^`loader` must hold batches, got none in epoch 2"):
        sekron.finetune(small, Once(), recipe=recipe(epochs=2), progress=False)


def test_the_command_line_where_nothing_was_found(tmp_path, monkeypatch, command_line):
    (tmp_path / "networks_of_nothing.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    shape = ("--input", "1x3x7x5")
    code, out, _ = command_line("layers", "networks_of_nothing:activation", *shape)
    assert (code, out.splitlines()[-1]) == (0, "0 FLOPs, 0 parameters")
    options = ("--flops", "100%", "--trials", "0", "--measure-seconds", "0")
    network = "networks_of_nothing:tiny"
    assert command_line("search", network, *shape, *options, "--run", "run")[0] == 0
    code, out, _ = command_line("front", "run")
    assert code == 0
    assert out.splitlines()[1].split()[:4] == ["0", "0.0000", "1.0000", "1.0000"]
    code, out, _ = command_line("apply", "run", "--output", "small.safetensors")
    assert code == 0
    assert "0 of 2 layers replaced, 350 FLOPs (100.0%), 14 parameters (100.0%)" in out
    code, out, _ = command_line("compare", "run")
    assert code == 0
    assert "sekron" in out
