"""Ranks by variational Bayes: planted ranks come back, and plans keep to their budgets."""

import pytest
import torch
from torch import nn

from baselines.vbmf import vbmf_plan, vbmf_rank
from sekron.budget import Budget
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from tests.conftest import decayed

SHAPES = [(20, 30, 3), (30, 20, 3), (8, 54, 2), (40, 40, 7), (16, 200, 1)]
SCALES = [1e6, 1.0, 1e-2, 1e-4, 1e-6]
planted_shapes = pytest.mark.parametrize(("rows", "columns", "rank"), SHAPES)


def planted(rows, columns, rank, noise=0.3):
    """Equal singular values, entries of about √rank, and noise."""
    generator = torch.Generator().manual_seed(rank)
    left, right = (
        torch.linalg.qr(torch.randn(n, rank, generator=generator, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    noises = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return (rows * columns) ** 0.5 * left @ right.T + noise * noises


@pytest.mark.parametrize("noise", [1e-4, 0.1, 0.3])
@planted_shapes
def test_a_planted_rank_comes_back(rows, columns, rank, noise):
    assert vbmf_rank(planted(rows, columns, rank, noise)) == rank


@pytest.mark.parametrize("scale", SCALES)
@planted_shapes
def test_noise_has_no_rank_at_any_scale(rows, columns, rank, scale):
    noise = planted(rows, columns, rank) - planted(rows, columns, rank, noise=0.0)
    assert vbmf_rank(scale * noise) == 0


@planted_shapes
def test_zeros_have_no_rank(rows, columns, rank):
    assert vbmf_rank(torch.zeros(rows, columns)) == 0


@pytest.mark.parametrize("scale", SCALES)
@planted_shapes
def test_neither_scale_nor_transposition_changes_the_rank(rows, columns, rank, scale):
    for noise in (0.3, 1.5):
        matrix = planted(rows, columns, rank, noise)
        expected = vbmf_rank(matrix)
        assert vbmf_rank(scale * matrix) == expected
        assert vbmf_rank(scale * matrix.T) == expected


def test_the_rank_of_trained_weights_does_not_depend_on_their_scale():
    torch.manual_seed(0)
    matrix = decayed(nn.Sequential(nn.Linear(64, 48)), power=0.5)[0].weight.detach()
    assert {vbmf_rank(scale * matrix) for scale in SCALES} == {vbmf_rank(matrix)}


@pytest.fixture(scope="module")
def small_profile(small_network, small_input):
    return profile(small_network, small_input)


BUDGETS = [Budget(flops=share / 20) for share in range(7, 21)]


@pytest.mark.parametrize(
    "budget",
    [*BUDGETS[::3], Budget(params=0.4), Budget(flops=0.7, params=0.4), Budget(flops=80_000)],
    ids=str,
)
def test_a_plan_fits_by_totals_and_by_count(small_network, small_input, small_profile, budget):
    plan = vbmf_plan(small_network, small_profile, budget)
    totals = small_profile.totals(plan)
    for name, used in totals.items():
        limit = budget.limit(name, small_profile.dense(name))
        assert limit is None or used <= limit
    network = plan.apply(small_network)
    assert count_flops(network, (small_input[:1],))[0] == totals["flops"]
    assert sum(p.numel() for p in network.parameters()) == totals["params"]


@pytest.mark.parametrize("budget", [Budget(flops=0.2), Budget(flops=0.9, params=0.1)], ids=str)
def test_what_rank_one_does_not_reach_is_none(small_network, small_profile, budget):
    assert vbmf_plan(small_network, small_profile, budget) is None


def test_a_larger_budget_gives_no_smaller_rank(small_network, small_profile):
    before = {layer.name: (1, 1) for layer in small_profile.searched}
    for budget in BUDGETS:
        plan = vbmf_plan(small_network, small_profile, budget)
        ranks = {name: plan[name].ranks if name in plan else (10**6,) * 2 for name in before}
        for name, old in before.items():
            assert all(new >= rank for new, rank in zip(ranks[name], old, strict=False)), budget
        before = ranks
    assert before == dict.fromkeys(before, (10**6,) * 2)  # all dense at last


def test_all_layers_of_a_plan_save_something(small_network, small_profile):
    plans = [vbmf_plan(small_network, small_profile, budget) for budget in BUDGETS]
    assert any(plans)
    for plan in plans:
        for layer in small_profile.searched:
            if layer.name in plan:
                structure = plan[layer.name]
                assert structure.n_params < layer.params or layer.flops_of(structure) < layer.flops


def test_a_layer_that_rank_one_does_not_make_smaller_stays_dense():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(9, 2, 3), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 9, 3)).eval()
    measured = profile(network, torch.randn(1, 9, 8, 8), include=["*"])
    for share in (0.5, 0.7, 0.9):
        assert set(vbmf_plan(network, measured, Budget(flops=share))) == {"0", "2"}


@pytest.mark.parametrize(("inputs", "outputs"), [(20, 30), (30, 20)])
def test_linear_layers_of_either_orientation_get_ranks(inputs, outputs):
    network = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 4)).eval()
    with torch.no_grad():
        network[0].weight.copy_(planted(outputs, inputs, 6, noise=0.1))
    measured = profile(network, torch.randn(1, inputs), include=["0"])
    plan = vbmf_plan(network, measured, Budget(flops=0.6))
    dense, per_rank = inputs * outputs, inputs + outputs
    most = (int(0.6 * (dense + 4 * outputs)) - 4 * outputs) // per_rank
    assert plan["0"].ranks == (most,)
