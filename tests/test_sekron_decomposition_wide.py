"""Very large weights of fp32 are decomposed in fp32: half the memory, errors as in fp64."""

import pytest
import torch

from sekron.decomposition import gram
from sekron.decomposition.decompose import decompose
from sekron.decomposition.errors import fitted_error, relative_error
from sekron.decomposition.gram import eigvalsh_of_gram, working
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure

STRUCTURES = ["chain:24x1,1x40@5", "sekron:4x5,6x8@7", "chain:4x8,3x5,2x1@3,2"]


@pytest.fixture
def weight():
    return torch.randn(24, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(gram, "WIDE", 1)
    monkeypatch.setattr(gram, "COLUMNS", 7)


def test_only_what_is_large_and_single_is_worked_on_in_fp32(weight, monkeypatch):
    assert working(weight).dtype == torch.float64
    monkeypatch.setattr(gram, "WIDE", weight.numel())
    assert working(weight) is not weight
    assert working(weight).data_ptr() == weight.data_ptr()  # not even copied
    assert working(weight.double()).dtype == torch.float64
    assert working(weight.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("text", STRUCTURES)
def test_factors_and_errors_are_those_of_fp64(weight, wide, text):
    structure = Structure.parse(text)
    curve = Spectra(weight, (Geometry.of((24, 40), ()),)).curve(structure.family, structure.shapes)
    for row in (0, len(curve.errors) // 2, -1):
        exact = relative_error(weight.double(), curve.structure(row))
        assert curve.errors[row] == pytest.approx(exact, rel=1e-5)
    exact = relative_error(weight.double(), structure)
    assert relative_error(weight, structure) == pytest.approx(exact, rel=1e-5)
    assert {factor.dtype for factor in decompose(weight, structure)} == {torch.float32}


def test_a_gram_matrix_of_fp32_is_summed_in_fp64(monkeypatch):
    monkeypatch.setattr(gram, "COLUMNS", 64)
    matrix = 0.1 + torch.rand(3, 2**18, generator=torch.Generator().manual_seed(0))
    expected = torch.linalg.svdvals(matrix.double()).square().flip(0)
    # Summed in fp32 alone, the first is off by 7e-6 of it.
    assert torch.allclose(eigvalsh_of_gram(matrix), expected, rtol=1e-7)


@pytest.mark.parametrize("factor", [1e-25, 1.0, 1e25])
def test_squares_of_fp32_neither_overflow_nor_vanish(weight, wide, factor):
    expected = torch.linalg.svdvals(factor * weight.double()).square().flip(0)
    assert torch.allclose(eigvalsh_of_gram(factor * weight), expected, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("factor", [1e-24, 1e19])
def test_factors_of_fp32_neither_overflow_nor_vanish(weight, wide, factor):
    for text in STRUCTURES:
        structure = Structure.parse(text)
        factors = decompose(factor * weight, structure)
        exact = relative_error(factor * weight.double(), structure)
        assert fitted_error(factor * weight, factors, structure) == pytest.approx(exact, rel=1e-4)
