"""Eigenvalues of Gram matrices, in fp64 and, of large ones, in fp32, against singular values."""

import pytest
import torch

from sekron import Structure, decompose
from sekron.decomposition import gram as module
from sekron.decomposition.decompose import leading
from sekron.decomposition.errors import fitted_error
from sekron.decomposition.gram import eigh_of_gram, eigvalsh_of_gram, gram
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry


@pytest.fixture(params=[module.LARGEST_DOUBLE, 4], ids=["double", "single"])
def tolerance(request, monkeypatch):
    """How far sums of squares may be off, of all squares."""
    monkeypatch.setattr(module, "LARGEST_DOUBLE", request.param)
    return 1e-12 if request.param > 4 else 1e-6


def test_the_lower_triangle_in_blocks_is_that_of_the_product():
    matrices = torch.randn(2, 700, 30).double()
    expected = matrices @ matrices.mT
    torch.testing.assert_close(gram(matrices).tril(), expected.tril())


@pytest.mark.parametrize("scale", [1e-60, 1.0, 1e60])
def test_values_are_squares_of_singular_values(tolerance, scale):
    torch.manual_seed(0)
    matrices = scale * torch.randn(2, 12, 40).double()
    squares = torch.linalg.svdvals(matrices).square().flip(-1)
    total = squares.sum(dim=-1, keepdim=True)
    for values in (eigvalsh_of_gram(matrices), eigh_of_gram(matrices)[0]):
        assert values.dtype == torch.float64
        assert float(((values - squares) / total).abs().max()) < tolerance


def test_nothing_has_no_values(tolerance):
    assert not eigvalsh_of_gram(torch.zeros(1, 6, 9).double()).any()


@pytest.mark.parametrize("shape", [(12, 40), (40, 12)])
def test_the_best_approximation_is_that_of_the_svd(tolerance, shape):
    torch.manual_seed(0)
    matrix = torch.randn(1, *shape).double()
    squares = torch.linalg.svdvals(matrix[0]).square()
    left, right = leading(matrix, 7)
    rest = (matrix - left @ right).square().sum()
    torch.testing.assert_close(rest, squares[7:].sum(), rtol=10 * tolerance, atol=0.0)
    torch.testing.assert_close(left[0].mT @ left[0], torch.eye(7).double(), rtol=0, atol=1e-5)


def test_an_error_is_that_of_what_is_decomposed(tolerance):
    torch.manual_seed(0)
    weight = torch.randn(12, 40)
    curve = Spectra(weight, (Geometry.of((12, 40), (1,)),)).curve("sekron", ((12, 1), (1, 40)))
    for row in range(len(curve.errors)):
        structure = curve.structure(row)
        assert isinstance(structure, Structure)
        error = fitted_error(weight, decompose(weight, structure), structure)
        assert error**2 == pytest.approx(curve.errors[row] ** 2, abs=10 * tolerance)
