"""Spectra from unfoldings that are reduced, shared or computed in part: all like the plain one."""

from math import prod

import numpy as np
import pytest
import torch

from sekron import Structure, relative_error
from sekron.decomposition.digits import to_digits
from sekron.decomposition.gram import gram
from sekron.decomposition.metric import Metric
from sekron.rank_curves import unfoldings
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.unfoldings import Unfoldings
from sekron.structures.geometry import Geometry

WEIGHTS = {  # one mode is larger than the others together; `groups` is the first number
    "wide": (1, (12, 70)),
    "tall": (1, (70, 12)),
    "kernel": (1, (60, 2, 3, 5)),
    "long": (1, (2, 3, 14)),
    "groups": (2, (35, 6, 1, 1)),
}
SHAPES = {
    "wide": ["4x1,3x70", "2x70,6x1", "1x70,12x1", "2x1,1x70,6x1", "3x1,2x1,2x70", "4x7,3x10"],
    "tall": ["1x4,70x3", "70x2,1x6", "7x4,10x3", "1x2,70x1,1x6", "1x3,1x2,70x2"],
    "kernel": ["60x1x3x1,1x2x1x5", "1x2x3x5,60x1x1x1", "1x2x1x1,60x1x1x5,1x1x3x1"],
    "long": ["1x3x14,2x1x1", "2x1x1,1x1x14,1x3x1", "2x3x2,1x1x7"],
    "groups": ["35x1x1x1,1x6x1x1", "1x2x1x1,35x3x1x1", "1x2x1x1,35x1x1x1,1x3x1x1"],
}
CASES = [(name, text) for name, texts in SHAPES.items() for text in texts]
every_case = pytest.mark.parametrize(("name", "text"), CASES, ids=str)


def shapes_of(text):
    return tuple(tuple(map(int, shape.split("x"))) for shape in text.split(","))


def blocks_of(name):
    groups, shape = WEIGHTS[name]
    torch.manual_seed(0)
    return torch.randn(groups, *shape, dtype=torch.float64)


def spectra(name, metric=None):
    blocks = blocks_of(name)
    shape = (blocks.shape[0] * blocks.shape[1], *blocks.shape[2:])
    size = tuple(range(4, 4 + len(shape) - 2))
    geometry = Geometry.of(shape, size, groups=len(blocks))
    return Spectra(blocks.reshape(shape), (geometry,), metric)


def metric_of(name):
    groups, (n_outputs, n_inputs, *_) = WEIGHTS[name]
    torch.manual_seed(1)
    sides = (0.5 + torch.rand(groups, n).double() for n in (n_outputs, n_inputs))
    matrices = (torch.diag_embed(side) for side in sides)
    return Metric(*(matrix[0] if groups == 1 else matrix for matrix in matrices))


@pytest.fixture(params=["as it is", "vectors late", "nothing kept"])
def _everyhow(request, monkeypatch):
    if request.param == "vectors late":
        monkeypatch.setattr(unfoldings, "VECTORS_TOO", 0)
    if request.param == "nothing kept":
        monkeypatch.setattr(unfoldings, "CACHE_BYTES", 0)
        monkeypatch.setattr(unfoldings, "VECTORS_TOO", 0)


@pytest.mark.usefixtures("_everyhow")
@every_case
def test_singular_values_are_those_of_the_weight(name, text):
    blocks, shapes = blocks_of(name), shapes_of(text)
    digits = to_digits(blocks, shapes)
    expected = torch.linalg.svdvals(digits.flatten(2)).square()
    known = Unfoldings(blocks)
    for rank in (1, expected.shape[1]):  # less was asked for before
        right = known.right(shapes, rank)
        assert right.shape[:2] == (len(blocks), rank)
        assert prod(right.shape[2:]) <= prod(digits.shape[2:])
        found = right.flatten(2).square().sum(dim=2)
        torch.testing.assert_close(found, expected[:, :rank], rtol=1e-9, atol=1e-9)
    if len(shapes) == 2:
        for fresh in (known, Unfoldings(blocks)):
            torch.testing.assert_close(fresh.squares(shapes), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("_everyhow")
@pytest.mark.parametrize("is_measured", [False, True], ids=["plain", "metric"])
@pytest.mark.parametrize("family", ["sekron", "chain"])
@every_case
def test_errors_are_those_of_the_factors_that_are_used(name, text, family, is_measured):
    metric = metric_of(name) if is_measured else None
    known = spectra(name, metric)
    curve = known.curve(family, shapes_of(text))
    for row in range(0, len(curve.errors), max(1, len(curve.errors) // 9)):
        error = relative_error(known.plain, curve.structure(row), metric)
        assert curve.errors[row] == pytest.approx(error, abs=2e-7)


def test_a_wide_layer_is_worked_on_in_the_size_of_its_narrow_side():
    known = Unfoldings(blocks_of("wide"))
    assert known.right(shapes_of("2x1,1x70,6x1"), 2).shape == (1, 2, 12, 6)
    assert known.right(shapes_of("4x7,3x10"), 2).shape == (1, 2, 30)  # which divides the inputs


@pytest.mark.parametrize("rows", [3, 8, 9, 25])
def test_a_gram_matrix_is_right_where_solvers_look(rows, monkeypatch):
    monkeypatch.setattr("sekron.decomposition.gram.BLOCK", 4)
    torch.manual_seed(0)
    matrices = torch.randn(2, 5, rows, 11, dtype=torch.float64)
    expected = matrices @ matrices.mT
    torch.testing.assert_close(gram(matrices).tril(), expected.tril())
    values = torch.linalg.eigvalsh(gram(matrices))
    torch.testing.assert_close(values, torch.linalg.eigvalsh(expected))


@pytest.mark.parametrize("rows", [2, 6, 11])
def test_one_gram_matrix_serves_all_earlier_ranks(rows):
    torch.manual_seed(0)
    weight = torch.randn(7, rows, 13)
    known = Spectra(weight, (Geometry.of((7, rows, 13), (20,)),))
    curve = known.curve("chain", ((7, 1, 1), (1, rows, 1), (1, 1, 13)))
    assert len(np.unique(curve.ranks[:, 0])) > 2
    for row in range(len(curve.errors)):
        assert curve.errors[row] == pytest.approx(
            relative_error(weight, Structure("chain", curve.shapes, tuple(curve.ranks[row]))),
            abs=2e-7,
        )


@pytest.mark.parametrize("most", [0, 2048], ids=["vectors late", "vectors too"])
@pytest.mark.parametrize("text", ["8x3x3,3x4x1", "24x1x1,1x12x3"])
def test_what_was_asked_before_changes_no_digit(monkeypatch, text, most):
    """Else a search that was killed and gone on with would end with another table."""
    monkeypatch.setattr(unfoldings, "VECTORS_TOO", most)
    torch.manual_seed(0)
    blocks, shapes = torch.randn(1, 24, 12, 3, dtype=torch.float64), shapes_of(text)
    known = Unfoldings(blocks)
    known.right(shapes, 2)
    assert torch.equal(known.squares(shapes), Unfoldings(blocks).squares(shapes))


def test_what_was_kept_for_few_ranks_is_computed_anew_for_more(monkeypatch):
    monkeypatch.setattr(unfoldings, "CACHE_BYTES", 7200)  # not all ranks fit, some do
    torch.manual_seed(0)
    blocks = torch.randn(1, 64, 64, dtype=torch.float64)
    shapes = shapes_of("16x8,4x1,1x8")
    known = Unfoldings(blocks)
    known.right(shapes, 3)
    found, wanted = known.right(shapes, 29), Unfoldings(blocks).right(shapes, 29)
    assert found.shape == wanted.shape == (1, 29, *wanted.shape[2:])
    torch.testing.assert_close(found.abs(), wanted.abs())
