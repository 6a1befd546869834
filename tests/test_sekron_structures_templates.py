"""Rival decompositions are points of our space, so no plan of ours is worse than theirs."""

import pytest
import torch
from torch import nn

import search
from baselines import METHODS, candidates
from search import Budget, InfeasibleBudget
from search.front.choices import Choices
from search.per_layer.space import Space, canonical
from sekron import SeKronConv2d, Structure
from sekron.structures import templates
from sekron.structures.families import n_ranks

TEMPLATES = {name: getattr(templates, name) for name in ("tucker2", "spatial_svd", "channel_svd")}
every_baseline = pytest.mark.parametrize("baseline", TEMPLATES)
WEIGHTS = [(64, 48, 3, 3), (7, 5, 3, 2), (12, 20, 1, 1), (8, 6, 1, 5)]


@every_baseline
@pytest.mark.parametrize("shape", WEIGHTS, ids=str)
def test_baselines_are_templates_of_the_space(baseline, shape):
    space = Space(shape, 3)
    point = canonical(*TEMPLATES[baseline](shape))
    assert point in space.templates()
    assert space.point(space.params(point)) == point


@pytest.mark.parametrize(
    ("baseline", "kernels"),
    [
        ("tucker2", [(1, 1), (3, 5), (1, 1)]),
        ("spatial_svd", [(1, 5), (3, 1)]),
        ("channel_svd", [(3, 5), (1, 1)]),
    ],
)
def test_baselines_are_the_convolutions_that_people_write(baseline, kernels):
    family, shapes = TEMPLATES[baseline]((14, 10, 3, 5))
    structure = Structure(family, shapes, (4,) * n_ranks(family, len(shapes)))
    layer = SeKronConv2d.from_conv2d(nn.Conv2d(10, 14, (3, 5)), structure)
    sizes = [tuple(weight.shape[-2:]) if weight.dim() == 4 else (1, 1) for weight in layer.weights]
    assert sizes == kernels
    # the ranks stand between the factors: r·i·k + r·o·k, or r·i + r·r·k·k + r·o
    assert structure.n_params == {"tucker2": 4 * 10 + 16 * 15 + 4 * 14}.get(
        baseline, 4 * (10 * 5 + 14 * 3) if baseline == "spatial_svd" else 4 * (10 * 15 + 14)
    )


@pytest.fixture(scope="module")
def result(small_run):
    return search.load(small_run)


def best_loss(result, network, baseline, budget):
    """The best loss when every layer is dense or has the structure of a baseline, or infinity."""
    tables = candidates(network, result.profile, METHODS[baseline])
    try:
        return Choices(result.profile, tables).allocate(budget).loss
    except InfeasibleBudget:
        return float("inf")


@every_baseline
@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize("percent", range(10, 61, 10))
def test_no_baseline_allocates_better(small_network, result, baseline, resource, percent):
    budget = Budget(**{resource: percent / 100})
    theirs = best_loss(result, small_network, baseline, budget)
    try:
        ours = result.allocate(budget).loss
    except InfeasibleBudget:
        ours = float("inf")
    assert ours <= theirs + 1e-9


@every_baseline
def test_baselines_are_met_somewhere(small_network, result, baseline):
    assert best_loss(result, small_network, baseline, Budget(flops=0.6)) < float("inf")


def test_a_baseline_of_a_pointwise_convolution_is_its_svd():
    torch.manual_seed(0)
    for name in ("tucker2", "channel_svd"):
        family, shapes = canonical(*TEMPLATES[name]((12, 20, 1, 1)))
        assert (family, shapes) == ("sekron", ((12, 1, 1, 1), (1, 20, 1, 1)))
