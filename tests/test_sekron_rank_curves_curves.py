"""Rank curves: every row is what decomposing, rebuilding and counting would give."""

from math import prod

import numpy as np
import pytest
import torch

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.pareto import MIXES, front, hypervolume, mixed_front
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
every_point = pytest.mark.parametrize("case", POINTS)


def point(case):
    family, shapes = POINTS[case]
    return family, tuple(tuple(map(int, shape.split("x"))) for shape in shapes.split(","))


def spectra(weight=None, output_size=(9, 8), stride=1):
    torch.manual_seed(0)
    made = torch.randn(WEIGHT_SHAPE) if weight is None else weight
    return Spectra(made, (Geometry.of(tuple(made.shape), output_size, stride),))


def rows_of(curve):
    return range(0, len(curve.errors), max(1, len(curve.errors) // 25))


@every_point
def test_rows_are_the_rebuilt_error_the_flops_and_the_parameters(case, monkeypatch):
    monkeypatch.setattr("sekron.rank_curves.rank_grid.FITTED_RANKS", 4)
    known = spectra(stride=2)
    assert known.dense_params == prod(WEIGHT_SHAPE)
    assert known.dense_flops == prod(WEIGHT_SHAPE) * 72
    curve = known.curve(*point(case))
    weight = known.weight.float()
    for row in rows_of(curve):
        structure = curve.structure(row)
        rebuilt = reconstruct([a.double() for a in decompose(weight, structure)], structure)
        error = float((known.weight - rebuilt).norm() / known.weight.norm())
        assert curve.errors[row] == pytest.approx(error, abs=1e-5)
        assert curve.flops[row] == structure.flops((9, 8), stride=2)
        assert curve.params[row] == structure.n_params
    # Every row saves something, and none is beaten by another.
    flops, params = curve.flops / known.dense_flops, curve.params / known.dense_params
    assert np.all((flops < 1) | (params < 1))
    assert list(mixed_front(flops, params, curve.errors)) == list(range(len(flops)))
    assert len(np.unique(curve.ranks, axis=0)) == len(curve.ranks) > 0


@pytest.mark.parametrize("case", ["spatial-svd", "split-2"])
def test_two_factors_have_every_rank_that_saves(case):
    known = spectra()
    family, shapes = point(case)
    curve = known.curve(family, shapes)
    largest = min(prod(shape) for shape in shapes)
    saving = [
        rank
        for rank in range(1, largest + 1)
        if (s := Structure(family, shapes, (rank,))).n_params < known.dense_params
        or s.flops((9, 8)) < known.dense_flops
    ]
    assert list(curve.ranks[:, 0]) == saving
    assert np.all(np.diff(curve.errors) < 0)


@pytest.mark.parametrize("case", EXACT)
def test_what_was_asked_before_does_not_matter(case, monkeypatch):
    alone = spectra().curve(*point(case))
    shared, forgetful = spectra(), spectra()
    monkeypatch.setattr("sekron.rank_curves.curves.CACHE_BYTES", 0)
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
def test_with_little_work_there_are_fewer_rows_but_no_wrong_ones(case, monkeypatch):
    every = spectra().curve(*point(case))
    monkeypatch.setattr("sekron.rank_curves.rank_grid.WORK", 1.0)
    fewer = spectra().curve(*point(case))
    errors = {tuple(r): e for r, e in zip(every.ranks, every.errors, strict=True)}
    assert 0 < len(fewer.errors) <= len(every.errors)
    for row in rows_of(fewer):
        structure = fewer.structure(row)
        weight = spectra().weight
        assert fewer.errors[row] == pytest.approx(relative_error(weight, structure), abs=1e-9)
        assert errors.get(structure.ranks, fewer.errors[row]) == pytest.approx(fewer.errors[row])


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
        assert curve.errors[row] == pytest.approx(relative_error(weight, structure), abs=1e-6)


@every_point
def test_a_weight_of_zeros_has_no_error(case):
    curve = spectra(torch.zeros(WEIGHT_SHAPE)).curve(*point(case))
    assert len(curve.errors) > 0
    assert not curve.errors.any()


def test_an_exactly_low_rank_weight_is_found_out():
    torch.manual_seed(0)
    structure = Structure.parse("sekron:12x1x3x1,1x10x1x5@4")
    weight = reconstruct([torch.randn(s) for s in structure.factor_shapes], structure)
    curve = spectra(weight).curve("sekron", structure.shapes)
    by_rank = dict(zip(curve.ranks[:, 0], curve.errors, strict=True))
    assert by_rank[3] > 0.1
    assert by_rank[4] < 1e-6


def test_nothing_saves_in_a_tiny_weight():
    known = Spectra(torch.randn(2, 2, 1, 1), (Geometry.of((2, 2, 1, 1), (3, 3)),))
    for family in FAMILIES:
        curve = known.curve(family, ((2, 1, 1, 1), (1, 2, 1, 1)))
        assert len(curve.errors) == len(curve.ranks) == len(curve.flops) == 0


def dominated(costs, errors, i):
    better = (costs <= costs[i]) & (errors <= errors[i])
    return bool(np.any(better & ((costs < costs[i]) | (errors < errors[i]))))


@pytest.mark.parametrize("n_levels", [3, 20, 1000])
def test_front_keeps_exactly_the_points_that_no_other_beats(n_levels):
    rng = np.random.default_rng(0)
    costs, errors, other = rng.integers(0, n_levels, (3, 200)) / n_levels
    chosen = front(costs, errors)
    points = {(costs[i], errors[i]) for i in chosen}
    assert len(points) == len(chosen)
    assert points == {(costs[i], errors[i]) for i in range(200) if not dominated(costs, errors, i)}
    assert np.all(np.diff(costs[chosen]) > 0)
    mixed = mixed_front(costs, other, errors)
    fronts = [front(mix * costs + (1 - mix) * other, errors) for mix in MIXES]
    assert set(mixed) == set(np.concatenate(fronts))
    assert np.all(np.diff(mixed) > 0)


def test_fronts_of_nothing_are_empty():
    nothing = np.zeros(0)
    assert len(front(nothing, nothing)) == len(mixed_front(nothing, nothing, nothing)) == 0
    assert hypervolume(nothing, nothing) == 0.0


def test_hypervolume_is_the_area_that_the_points_dominate():
    costs, errors = np.array([0.5, 0.2, 0.6, 1.5]), np.array([0.1, 0.6, 0.4, 0.0])
    assert hypervolume(costs, errors) == pytest.approx(0.3 * 0.4 + 0.5 * 0.9)
    assert hypervolume(np.array([0.0]), np.array([0.0])) == 1.0
    assert hypervolume(np.array([1.0]), np.array([0.0])) == 0.0
