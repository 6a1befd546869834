"""The fit of a CP against independent oracles: TensorLy, a full SVD, tensors of known rank."""

from itertools import combinations, pairwise, permutations

import pytest
import tensorly
import torch
from tensorly.decomposition import parafac

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.decomposition import cp
from tests.conftest import decayed

SHAPES = [(9, 4), (4, 9), (9, 5, 4), (4, 9, 5), (4, 5, 9), (5, 5, 5), (3, 4, 6, 2), (2, 3, 2, 5, 2)]
LARGER = [(20, 15, 12), (12, 20, 15), (9, 4, 5, 6), (6, 5, 4, 5, 6), (4, 5, 6, 3, 8)]
TRAINED = [(16, 12, 9), (24, 8, 9), (8, 24, 9), (16, 12, 3, 3)]
THREE = ["cp:6x1x1x1,1x10x1x1,1x1x3x2", "cp:3x2x1x1,2x1x3x1,1x5x1x2", "cp:1x5x1x2,3x2x1x1,2x1x3x1"]
FOUR = ["cp:6x1x1x1,1x10x1x1,1x1x3x1,1x1x1x2", "cp:3x1x1x1,2x2x1x1,1x5x3x1,1x1x1x2"]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def fit(tensor, rank, seed=0):
    return cp.fit_cp(tensor, rank, torch.Generator().manual_seed(seed))


def made(*shape, seed=0):
    torch.manual_seed(seed)
    return torch.randn(shape)


def trained(*shape, seed=0):
    torch.manual_seed(seed)
    return decayed(torch.nn.Conv2d(shape[1], shape[0], 3)).weight.detach().double().reshape(shape)


def summed(factors):
    """The definition: the sum over all terms of the outer products of their vectors."""
    modes = "abcde"[: len(factors)]
    terms = ",".join("r" + mode for mode in modes)
    return torch.einsum(f"{terms}->{modes}", *(a.double() for a in factors))


def summed_terms(factors):
    """The outer product of each term's vectors, flattened."""
    modes = "abcde"[: len(factors)]
    terms = ",".join("r" + mode for mode in modes)
    return torch.einsum(f"{terms}->r{modes}", *factors).flatten(1)


def error_of(tensor, factors):
    return float((tensor.double() - summed(factors)).norm() / tensor.double().norm())


def rebuilt_error(weight, structure):
    rebuilt = reconstruct(decompose(weight, structure), structure)
    return float((weight - rebuilt).norm() / weight.norm())


def largest_term(factors):
    return torch.stack([a.double().norm(dim=1) for a in factors]).prod(dim=0).max()


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_shape
@pytest.mark.parametrize("rank", [1, 3, 12])  # 12 is more than any mode has
def test_factors_have_the_modes_and_the_dtype_of_the_tensor(shape, rank):
    for dtype in (torch.float32, torch.float64):
        factors = fit(made(*shape).to(dtype), rank)
        assert [tuple(a.shape) for a in factors] == [(rank, size) for size in shape]
        assert all(a.dtype == dtype for a in factors)
        assert error_of(made(*shape), factors) < 1.0


def test_factors_follow_their_modes_in_any_order():
    tensor = made(7, 6, 5)
    factors = fit(tensor, 4)
    for order in permutations(range(3)):
        assert same(fit(tensor.permute(order), 4), [factors[mode] for mode in order])


@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("shape", LARGER, ids=str)
def test_a_tensor_of_that_rank_is_recovered(shape, rank):
    for seed in range(4):
        torch.manual_seed(seed)
        tensor = summed([torch.randn(rank, size) for size in shape])
        assert error_of(tensor, fit(tensor, rank)) < 1e-3


@pytest.mark.parametrize("text", THREE)
def test_the_full_rank_of_three_factors_is_exact(text):
    assert rebuilt_error(made(6, 10, 3, 2), Structure.parse(text + "@36")) < 1e-4


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("shape", [(12, 9), (6, 14), (7, 7)], ids=str)
def test_two_factors_are_the_truncated_svd(shape, rank):
    matrix = made(*shape)
    values = torch.linalg.svdvals(matrix.double()).square()
    discarded = float(values[rank:].sum() / values.sum()) ** 0.5
    structure = Structure("cp", ((shape[0], 1), (1, shape[1])), (rank,))
    assert relative_error(matrix, structure) == pytest.approx(discarded, abs=1e-7)
    assert error_of(matrix, fit(matrix, rank)) == pytest.approx(discarded, abs=1e-5)


@pytest.mark.filterwarnings("ignore:Trying to compute SVD")  # of a rank above the sizes of modes
@pytest.mark.parametrize("rank", [1, 4, 8, 16])
@pytest.mark.parametrize("shape", TRAINED, ids=str)
def test_the_error_is_on_average_that_of_parafac_or_less(shape, rank):
    ratios = []
    for weight in (trained(*shape, seed=seed) for seed in range(3)):
        with tensorly.backend_context("pytorch", local_threadsafe=True):
            found = parafac(weight, rank, init="svd", n_iter_max=100, random_state=0)
            error = float((weight - tensorly.cp_to_tensor(found)).norm() / weight.norm())
        ratios.append(error_of(weight, fit(weight, rank)) / error)
    assert sum(ratios) / 3 <= 1.01


@every_shape
@pytest.mark.parametrize("rank", [2, 6])
def test_the_seed_decides_the_bits_and_only_beyond_the_directions_of_a_mode(shape, rank):
    first = fit(made(*shape), rank, seed=1)
    assert same(first, fit(made(*shape), rank, seed=1))
    assert same(first, fit(made(*shape), rank, seed=2)) == (rank <= min(shape))


@pytest.mark.parametrize("rank", [1, 4, 8, 30])
@pytest.mark.parametrize("shape", TRAINED, ids=str)
def test_no_term_outgrows_the_weight_and_its_vectors_have_the_same_norm(shape, rank):
    factors = fit(trained(*shape), rank)
    assert largest_term(factors) < 3.0 * trained(*shape).norm()
    norms = torch.stack([a.norm(dim=1) for a in factors])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("size", [2, 5, 9])
def test_terms_stay_small_where_the_best_fit_does_not_exist(size):
    for a, b in (made(2, size, seed=seed) for seed in range(3)):
        # Of rank 3, but arbitrarily close to rank 2: the better a fit, the larger its terms.
        tensor = summed([torch.stack(x) for x in ([a, a, b], [a, b, a], [b, a, a])])
        factors = fit(tensor, 2)
        assert largest_term(factors) < 3.0 * tensor.norm()
        assert error_of(tensor, factors) < 0.1


@every_shape
def test_zeros_are_fitted_by_zeros(shape):
    factors = fit(torch.zeros(shape), 6)
    assert all(torch.isfinite(a).all() for a in factors)
    assert not summed(factors).any()


@pytest.mark.parametrize("scale", [1e-25, 1e-9, 1e9, 1e20])
def test_the_scale_of_a_weight_does_not_matter(scale):
    structure, weight = Structure.parse(THREE[0] + "@4"), made(6, 10, 3, 2).double()
    error = relative_error(weight, structure)
    assert relative_error(scale * weight, structure) == pytest.approx(error, abs=1e-5)


@every_shape
@pytest.mark.parametrize("rank", [1, 4, 9])
def test_more_sweeps_are_never_worse_and_none_is_the_start(shape, rank, monkeypatch):
    tensor, squares = made(*shape), []
    monkeypatch.setattr(cp, "POLISH", 0)
    for sweeps in (0, 1, 2, 5, 20, 100):
        monkeypatch.setattr(cp, "SWEEPS", sweeps)
        squares.append(error_of(tensor, fit(tensor, rank)) ** 2)
    assert all(later <= earlier + 1e-6 for earlier, later in pairwise(squares))


@pytest.mark.parametrize("shape", [*SHAPES, *LARGER], ids=str)
def test_a_sweep_solves_least_squares_for_one_factor_after_another(shape):
    tensor, factors = made(*shape), [made(3, size, seed=size) for size in shape]
    expected = [factor.double() for factor in factors]
    last = len(shape) - 1
    for k in (0, last, *range(1, last)):
        others = summed_terms(expected[:k] + expected[k + 1 :])  # (3, the other modes)
        unfolding = tensor.double().movedim(k, 0).flatten(1)
        expected[k] = torch.linalg.lstsq(others.T, unfolding.T).solution
    factors, error = cp._sweep(tensor / tensor.norm(), factors, 0.0)
    rebuilt = tensor.double().norm() * summed(factors)
    assert torch.allclose(rebuilt, summed(expected), atol=1e-4)
    assert error == pytest.approx(error_of(tensor, expected) ** 2, abs=1e-5)


@pytest.mark.parametrize("rank", [1, 2])
def test_no_sweep_is_done_twice(rank, monkeypatch):
    sweep, seen = cp._sweep, []
    monkeypatch.setattr(cp, "_sweep", lambda *given: seen.append(given[1]) or sweep(*given))
    for seed in range(5):
        torch.manual_seed(seed)
        fit(summed([torch.randn(rank, size) for size in (8, 8, 3, 3)]), rank)
        assert not any(same(a, b) for a, b in combinations(seen[: -cp.POLISH], 2))
        seen.clear()


@pytest.mark.parametrize(("most", "n_sweeps"), [(1e9, 100), (2e4, 27), (1e3, 15)])
def test_work_is_that_of_a_fit_that_does_not_end_early(most, n_sweeps, monkeypatch):
    seen = []
    falling = lambda _, factors, *ridge: (seen.append(ridge) or factors, -len(seen))  # noqa: E731
    for name, value in (("WORK", most), ("POLISH", 0), ("_sweep", falling)):
        monkeypatch.setattr(cp, name, value)
    fit(made(6, 5, 4), 3)
    assert cp.fit_work(120, 3) == 2 * 120 * 3 * len(seen) == 2 * 120 * 3 * n_sweeps


def test_work_grows_with_size_and_rank():
    steps = [10**k for k in range(10)]
    assert all(cp.fit_work(a, 7) < cp.fit_work(b, 7) for a, b in pairwise(steps))
    assert all(cp.fit_work(7, a) < cp.fit_work(7, b) for a, b in pairwise(steps))


@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("text", [*THREE, *FOUR])
def test_relative_error_is_that_of_the_factors(text, rank):
    structure, weight = Structure.parse(f"{text}@{rank}"), made(6, 10, 3, 2)
    error = rebuilt_error(weight, structure)
    assert relative_error(weight, structure) == pytest.approx(error, abs=1e-5)
    assert 0.0 < error < 1.0
