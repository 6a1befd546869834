"""Ranks that are multiples of what a device likes, from the grids of ranks to the plan."""

import numpy as np
import pytest
import torch
from torch import nn

import search
from search import Budget, InfeasibleBudget
from search.per_layer.space import Space
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.rank_grid import (
    FINE,
    FITTED_RANKS,
    cp_ranks,
    earlier_ranks,
    fitted_ranks,
    scaled_ranks,
)
from sekron.structures.geometry import Geometry

FAMILIES = ("sekron", "chain", "ring", "tucker", "cp")


@pytest.mark.parametrize("multiple", [1, 4, 7])
def test_grids_hold_multiples_up_to_the_caps(multiple):
    assert earlier_ranks(30, 5, 1, multiple) == list(range(multiple, 31, multiple))
    grids = (
        np.array(earlier_ranks(300, 2000, 2, multiple))[:, None],
        fitted_ranks((60, 40), lambda rows: rows.sum(axis=1) <= 70, multiple),
        cp_ranks(200, 4000, multiple),
    )
    for grid, caps in zip(grids, ((300,), (60, 40), (200,)), strict=True):
        assert len(grid) > 1
        assert np.all(grid % multiple == 0)
        assert np.all((grid >= multiple) & (grid <= np.array(caps)))
        assert len(np.unique(grid, axis=0)) == len(grid)


@pytest.mark.parametrize("multiple", [1, 4])
def test_what_is_fitted_reaches_up_to_what_saves_and_no_further(multiple):
    every = scaled_ranks((60, 40), FINE, multiple)
    found = fitted_ranks((60, 40), lambda rows: rows.prod(axis=1) < 600, multiple)
    assert len(found) == FITTED_RANKS
    assert found[0].tolist() == [multiple, multiple]
    assert found[-1].tolist() == every[every.prod(axis=1) < 600][-1].tolist()


def test_what_saves_nowhere_is_not_fitted():
    assert fitted_ranks((60, 40), lambda rows: rows[:, 0] < 0).shape == (0, 2)


@pytest.mark.parametrize("number", [3, 6, 8, 16])
def test_a_cp_has_at_most_so_many_ranks_over_the_same_range(number):
    every, some = cp_ranks(200, 36864), cp_ranks(200, 36864, number=number)
    assert len(some) == number
    assert (some[0], some[-1]) == (every[0], every[-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_curve_keeps_the_multiples_and_their_errors(family):
    torch.manual_seed(0)
    weight = torch.randn(16, 12, 3, 3)
    call = (Geometry.of((16, 12, 3, 3), (9, 8)),)
    n_kept = 0
    for point in Space((16, 12, 3, 3), 3, (family,)).templates()[:6]:
        every = Spectra(weight, call).curve(*point)
        some = Spectra(weight, call, rank_multiple=4).curve(*point)
        assert np.all(some.ranks % 4 == 0)
        errors = {tuple(r): e for r, e in zip(every.ranks, every.errors, strict=True)}
        if family in ("sekron", "chain"):  # all ranks are known, so all the multiples
            kept = {ranks for ranks in errors if all(rank % 4 == 0 for rank in ranks)}
            assert kept <= {tuple(ranks) for ranks in some.ranks}
        for ranks, error in zip(some.ranks, some.errors, strict=True):
            assert errors.get(tuple(ranks), error) == pytest.approx(error, abs=1e-9)
            n_kept += 1
    assert n_kept > 0


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 24, 1), nn.Conv2d(24, 16, 3)
    ).eval()


def run(network, tmp_path, **settings):
    arguments = {"budget": Budget(flops=0.6), "n_trials": 4, "run": tmp_path, **settings}
    example = torch.zeros(1, 3, 12, 11)
    return search.run(network, example, measure_seconds=0, progress=False, **arguments)


def test_a_search_has_plans_of_such_ranks_only(network, tmp_path):
    result = run(network, tmp_path, rank_multiple=4)
    assert len(result.best) > 0
    for table in result.tables.values():
        assert len(table) > 0
        assert all(rank % 4 == 0 for ranks in table.ranks for rank in ranks)
    assert search.load(tmp_path).best == result.best
    with pytest.raises(ValueError, match="was searched with rank_multiple=4, got 1"):
        run(network, tmp_path)


def test_multiples_that_leave_nothing(network, tmp_path):
    with pytest.raises(InfeasibleBudget, match="`flops` must leave at least"):
        run(network, tmp_path, rank_multiple=16, budget=Budget(flops=0.2))
    with pytest.raises(ValueError, match="`rank_multiple` must be at least 1, got 0"):
        run(network, tmp_path, rank_multiple=0)
