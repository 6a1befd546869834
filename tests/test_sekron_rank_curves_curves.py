"""Rank curves: every row is what decomposing, rebuilding and counting would give."""

from itertools import product
from math import prod

import numpy as np
import pytest
import torch

from sekron import Structure, decompose, reconstruct
from sekron.decomposition.metric import Metric
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.pareto import front, hypervolume, mixed_front
from sekron.structures.families import FAMILIES
from sekron.structures.geometry import Geometry

WEIGHT_SHAPE = (12, 10, 3, 5)
POINTS = {
    "spatial-svd": ("sekron", "12x1x3x1,1x10x1x5"),
    "split-2": ("chain", "3x2x1x5,4x5x3x1"),
    "sekron-3": ("sekron", "3x2x1x5,2x5x1x1,2x1x3x1"),
    "sekron-4": ("sekron", "12x1x1x1,1x1x3x1,1x1x1x5,1x10x1x1"),
    "tucker-2": ("chain", "12x1x1x1,1x1x3x5,1x10x1x1"),
    "tensor-train": ("chain", "12x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5"),
    "chain-4": ("chain", "3x1x3x1,1x2x1x5,2x5x1x1,2x1x1x1"),
    "ring-3": ("ring", "12x1x1x1,1x10x1x1,1x1x3x5"),
    "ring-2": ("ring", "3x2x1x5,4x5x3x1"),
    "cp-4": ("cp", "12x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5"),
    "cp-2": ("cp", "1x1x3x1,12x10x1x5"),
    "tucker-3": ("tucker", "12x1x1x1,1x10x1x1,1x1x3x5"),
    "tucker-core": ("tucker", "12x1x1x1,1x10x1x1,1x1x3x5,1x1x1x1"),
}
EXACT = [case for case, (family, _) in POINTS.items() if family in ("sekron", "chain")]
LARGEST = {"spatial-svd": (36,), "split-2": (30,), "sekron-3": (30, 6), "tucker-2": (12, 10)}
every_point = pytest.mark.parametrize("case", POINTS)


def point(case):
    family, shapes = POINTS[case]
    return family, tuple(tuple(map(int, shape.split("x"))) for shape in shapes.split(","))


def spectra(weight=None, output_size=(9, 8), stride=1):
    torch.manual_seed(0)
    made = torch.randn(WEIGHT_SHAPE) if weight is None else weight
    return Spectra(made, (Geometry.of(tuple(made.shape), output_size, stride),))


def rows_of(curve):
    assert len(curve.errors) > 0
    return range(0, len(curve.errors), max(1, len(curve.errors) // 25))


def rebuilt_error(weight, structure):
    rebuilt = reconstruct(decompose(weight.double(), structure), structure)
    return float((weight - rebuilt).norm() / weight.norm())


def beaten(costs, errors, i):
    """Whether another point is as good in both, and better in one or the first of equals."""
    as_good = (costs <= costs[i]) & (errors <= errors[i])
    first = np.arange(len(costs)) < i
    return bool(np.any(as_good & ((costs < costs[i]) | (errors < errors[i]) | first)))


def unbeaten(flops, params, errors):
    """Return the rows that none beats in error and some quarters of FLOPs, the rest parameters."""
    costs = [k * flops + (4 - k) * params for k in range(5)]  # whole numbers: nothing is rounded
    return [i for i in range(len(errors)) if not all(beaten(cost, errors, i) for cost in costs)]


@every_point
def test_rows_are_the_rebuilt_error_the_flops_and_the_parameters(case, monkeypatch):
    monkeypatch.setattr("sekron.rank_curves.rank_grid.FITTED_RANKS", 4)
    known = spectra(stride=2)
    assert known.dense_params == prod(WEIGHT_SHAPE)
    assert known.dense_flops == prod(WEIGHT_SHAPE) * 72
    curve = known.curve(*point(case))
    for row in rows_of(curve):
        structure = curve.structure(row)
        assert curve.errors[row] == pytest.approx(rebuilt_error(known.weight, structure), abs=1e-7)
        assert curve.flops[row] == structure.flops((9, 8), stride=2)
        assert curve.params[row] == sum(map(prod, structure.factor_shapes))
    flops, params = curve.flops * known.dense_params, curve.params * known.dense_flops
    dense = known.dense_flops * known.dense_params
    assert np.all((flops < dense) | (params < dense))
    assert unbeaten(flops, params, curve.errors) == list(range(len(flops)))


@pytest.mark.parametrize("case", LARGEST)
def test_of_all_ranks_those_are_kept_that_save_and_that_no_other_beats(case):
    known = spectra()
    family, shapes = point(case)
    ranks = product(*(range(1, largest + 1) for largest in LARGEST[case]))
    every = [Structure(family, shapes, own) for own in ranks]
    dense_flops, dense_params = 72 * 1800, 1800
    saving = [s for s in every if s.flops((9, 8)) < dense_flops or s.n_params < dense_params]
    assert 0 < len(saving) < len(every)
    errors = np.array([rebuilt_error(known.weight, s) for s in saving])
    flops = np.array([s.flops((9, 8)) for s in saving])
    rows = unbeaten(flops, 72 * np.array([s.n_params for s in saving]), errors)
    curve = known.curve(family, shapes)
    assert list(map(tuple, curve.ranks)) == [saving[row].ranks for row in rows]
    np.testing.assert_allclose(curve.errors, errors[rows], atol=1e-9)


@pytest.mark.parametrize("case", EXACT)
def test_what_was_asked_before_does_not_matter(case, monkeypatch):
    alone = spectra().curve(*point(case))
    shared, forgetful = spectra(), spectra()
    monkeypatch.setattr("sekron.rank_curves.unfoldings.CACHE_BYTES", 0)
    for other in EXACT:
        forgetful.curve(*point(other))
    monkeypatch.undo()
    for other in ("spatial-svd", "sekron-4", "tensor-train"):
        shared.curve(*point(other))
    for known in (shared, forgetful):
        again = known.curve(*point(case))
        np.testing.assert_array_equal(again.ranks, alone.ranks)
        np.testing.assert_allclose(again.errors, alone.errors, atol=1e-12)


@pytest.mark.parametrize("case", ["tucker-2", "tensor-train", "chain-4"])
def test_with_little_work_fewer_earlier_ranks_are_tried_with_every_last_one(case, monkeypatch):
    every = {tuple(ranks) for ranks in spectra().curve(*point(case)).ranks}
    monkeypatch.setattr("sekron.rank_curves.rank_grid.WORK", 1.0)
    known = spectra()
    curve = known.curve(*point(case))
    fewer = {tuple(ranks) for ranks in curve.ranks}
    earlier = {ranks[:-1] for ranks in fewer}
    assert len(earlier) < len({ranks[:-1] for ranks in every})
    assert fewer >= {ranks for ranks in every if ranks[:-1] in earlier}
    for row in rows_of(curve):
        error = rebuilt_error(known.weight, curve.structure(row))
        assert curve.errors[row] == pytest.approx(error, abs=1e-9)


def test_a_layer_called_twice_costs_the_sum_of_its_calls():
    torch.manual_seed(0)
    weight = torch.randn(WEIGHT_SHAPE)
    calls = (Geometry.of(WEIGHT_SHAPE, (9, 8)), Geometry.of(WEIGHT_SHAPE, (5, 4)))
    curve = Spectra(weight, calls).curve(*point("tucker-2"))
    for row in rows_of(curve):
        structure = curve.structure(row)
        assert curve.flops[row] == structure.flops((9, 8)) + structure.flops((5, 4))


@pytest.mark.parametrize("family", FAMILIES)
def test_linear_layers_have_curves_too(family):
    torch.manual_seed(0)
    weight = torch.randn(14, 15)
    curve = Spectra(weight, (Geometry.of((14, 15), ()),)).curve(family, ((7, 3), (2, 5)))
    for row in rows_of(curve):
        structure = curve.structure(row)
        assert curve.flops[row] == structure.flops()
        assert curve.errors[row] == pytest.approx(rebuilt_error(weight, structure), abs=1e-7)


@every_point
def test_of_a_weight_of_zeros_one_row_is_kept_and_has_no_error(case, monkeypatch):
    monkeypatch.setattr("sekron.rank_curves.rank_grid.FITTED_RANKS", 4)
    assert spectra(torch.zeros(WEIGHT_SHAPE)).curve(*point(case)).errors.tolist() == [0.0]


def test_an_exactly_low_rank_weight_is_found_out():
    torch.manual_seed(0)
    structure = Structure.parse("sekron:12x1x3x1,1x10x1x5@4")
    weight = reconstruct([torch.randn(s) for s in structure.factor_shapes], structure)
    curve = spectra(weight).curve("sekron", structure.shapes)
    by_rank = dict(zip(curve.ranks[:, 0], curve.errors, strict=True))
    assert by_rank[3] > 0.1
    assert by_rank[4] < 1e-6


@pytest.mark.parametrize(("n_inputs", "n_kept"), [(2, 0), (3, 1)], ids=["2+2=2*2", "2+3<2*3"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_saves_nothing_is_not_kept(family, n_inputs, n_kept):
    shape = (2, n_inputs, 1, 1)
    known = Spectra(torch.randn(shape), (Geometry.of(shape, (5, 7)),))
    curve = known.curve(family, ((2, 1, 1, 1), (1, n_inputs, 1, 1)))
    assert curve.params.tolist() == [2 + n_inputs] * n_kept
    assert curve.flops.tolist() == [35 * (2 + n_inputs)] * n_kept


@pytest.mark.parametrize("n_levels", [3, 20, 1000])
def test_fronts_keep_exactly_the_points_that_no_other_beats(n_levels):
    flops, params, errors = np.random.default_rng(0).integers(0, n_levels, (3, 200))
    chosen = front(flops, errors)
    assert sorted(chosen) == [i for i in range(200) if not beaten(flops, errors, i)]
    assert np.all(np.diff(flops[chosen]) > 0)
    assert mixed_front(flops, params, errors).tolist() == unbeaten(flops, params, errors)


def test_fronts_of_nothing_are_empty():
    nothing = np.zeros(0)
    assert len(front(nothing, nothing)) == len(mixed_front(nothing, nothing, nothing)) == 0
    assert hypervolume(nothing, nothing) == 0.0


def test_hypervolume_is_the_area_that_the_points_dominate():
    costs, errors = np.array([0.5, 0.2, 0.6, 1.5]), np.array([0.1, 0.6, 0.4, 0.0])
    assert hypervolume(costs, errors) == pytest.approx(0.3 * 0.4 + 0.5 * 0.9)
    assert hypervolume(np.array([0.0]), np.array([0.0])) == 1.0
    assert hypervolume(np.array([1.0]), np.array([0.0])) == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_no_more_than_an_exact_factorization_needs_is_tried_where_little_is_computed(family):
    """Of an image that is mostly padding, a factor of its channels alone costs next to nothing."""
    weight = torch.randn(2, 64, 3, 3, generator=torch.Generator().manual_seed(0))
    geometry = Geometry.of((2, 64, 3, 3), (3, 3), 1, 1, (1, 1))
    shapes = ((2, 1, 1, 1), (1, 64, 1, 1), (1, 1, 3, 3))
    curve = Spectra(weight, (geometry,)).curve(family, shapes)
    structures = [curve.structure(row) for row in range(len(curve.errors))]  # or they are refused
    assert max(rank for structure in structures for rank in structure.ranks) <= 64


def test_ranks_of_a_chain_that_are_impossible_together_are_not_fitted():
    weight = torch.randn(32, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    metric = Metric(torch.eye(32, dtype=torch.float64), torch.eye(32, dtype=torch.float64))
    geometry = Geometry.of(tuple(weight.shape), (6, 6), 1)
    shapes = ((4, 1, 1, 3), (1, 2, 1, 1), (2, 4, 1, 1), (4, 4, 3, 1))
    curve = Spectra(weight, (geometry,), metric, 8).curve("chain", shapes)  # or it raises
    assert len(curve.errors) > 1
