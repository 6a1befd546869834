"""Factors of a weight against independent oracles: torch.kron, a full SVD, TensorLy."""

from itertools import product
from math import prod

import pytest
import tensorly
import torch
from tensorly.decomposition import tensor_train

from sekron import Structure, decompose, reconstruct, refine, relative_error
from sekron.decomposition.decompose import EXACT, leading
from sekron.decomposition.digits import from_digits, to_digits

STRUCTURES = {
    "dense": "chain:14x10x3x5",
    "sekron-2": "sekron:7x2x1x5,2x5x3x1@9",
    "sekron-3": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@6,4",
    "sekron-4": "sekron:7x1x1x1,1x5x1x1,2x1x3x1,1x2x1x5@5,4,3",
    "spatial-svd": "chain:14x1x3x1,1x10x1x5@13",
    "tucker-2": "chain:14x1x1x1,1x1x3x5,1x10x1x1@7,5",
    "chain-3": "chain:2x5x1x1,7x1x1x5,1x2x3x1@8,4",
    "tensor-train": "chain:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@6,9,4",
    "ring-2": "ring:7x2x1x5,2x5x3x1@3,2",
    "ring-3": "ring:14x1x1x1,1x10x1x1,1x1x3x5@3,4,2",
    "ring-4": "ring:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@2,3,2,3",
    "cp-2": "cp:7x2x1x5,2x5x3x1@4",
    "cp-4": "cp:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@6",
    "tucker-3": "tucker:7x2x1x1,2x5x1x1,1x1x3x5@5,4",
    "tucker-core": "tucker:14x1x1x1,1x10x1x1,1x1x3x5,1x1x1x1@5,4,3",
    "rank-1": "sekron:7x2x1x5,2x5x3x1@1",
    "linear": "sekron:7x2,2x5@6",
    "conv1d": "chain:14x1x1,1x10x1,1x1x3@5,2",
    "conv3d": "sekron:7x2x1x1x2,2x5x3x1x1,1x1x1x5x1@4,3",
}
FULL_RANK = {
    "sekron": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@14,6",
    "chain": "chain:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@14,15,5",
    "tucker": "tucker:7x2x1x1,1x5x1x1,2x1x3x5@14,5",
    "cp": "cp:2x1x3x1,7x10x1x5@6",
    "ring": "ring:2x1x3x1,7x10x1x5@6,1",
}
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def made(case):
    torch.manual_seed(0)
    structure = Structure.parse(STRUCTURES[case])
    return structure, torch.randn(structure.weight_shape)


def rebuilt_error(weight, factors, structure):
    rebuilt = reconstruct([a.double() for a in factors], structure)
    return float((weight.double() - rebuilt).norm() / weight.double().norm())


def kron_sum(factors, structure):
    """The definition: a sum over all rank indices of Kronecker products of slices."""
    total = torch.zeros(structure.weight_shape, dtype=factors[0].dtype)
    for index in product(*map(range, structure.ranks)):
        term = torch.ones((1,) * len(structure.weight_shape), dtype=factors[0].dtype)
        for factor, bonds in zip(factors, structure.bonds, strict=True):
            term = torch.kron(term, factor[tuple(index[b] for b in bonds)].contiguous())
        total += term
    return total


@every_structure
def test_reconstruct_is_the_sum_of_kronecker_products(case):
    structure, _ = made(case)
    factors = [torch.randn(shape, dtype=torch.float64) for shape in structure.factor_shapes]
    torch.testing.assert_close(reconstruct(factors, structure), kron_sum(factors, structure))


@every_structure
def test_digits_go_there_and_back(case):
    structure, weight = made(case)
    digits = to_digits(weight, structure.shapes)
    assert tuple(digits.shape) == tuple(map(prod, structure.shapes))
    assert torch.equal(from_digits(digits, structure.shapes), weight)
    batch = to_digits(torch.stack([weight, -weight]), structure.shapes)
    assert torch.equal(batch, torch.stack([digits, -digits]))


@every_structure
def test_predicted_error_is_the_rebuilt_error(case):
    structure, weight = made(case)
    factors = decompose(weight, structure)
    assert tuple(tuple(a.shape) for a in factors) == structure.factor_shapes
    assert all(a.is_contiguous() and a.dtype == weight.dtype for a in factors)
    error = relative_error(weight, structure)
    assert error == pytest.approx(rebuilt_error(weight, factors, structure), abs=1e-5)
    assert error < 1e-6 if structure.length == 1 else 0.0 < error < 1.0


@every_structure
def test_refining_never_raises_the_error(case):
    structure, weight = made(case)
    weight = weight.double()
    random = [torch.randn(shape, dtype=torch.float64) for shape in structure.factor_shapes]
    for factors in (decompose(weight, structure), random):
        before = rebuilt_error(weight, factors, structure)
        for sweeps in (0, 1, 5):
            after = rebuilt_error(weight, refine(weight, factors, structure, sweeps), structure)
            assert after <= before + 1e-12
            before = after


def test_refining_keeps_terms_that_a_solve_would_lose():
    torch.manual_seed(0)
    structure = Structure.parse("cp:3x1x1x1,1x5x1x1,1x1x3x1@2")
    base, step = 1e7, torch.randn(2, 5, dtype=torch.float64)
    near = [torch.stack([step[0, :n] + step[1, :n] / base, step[0, :n]]) for n in (3, 5, 3)]
    near[0] = near[0] * torch.tensor([[base], [-base]])  # two huge terms that nearly cancel
    factors = [a.reshape(shape) for a, shape in zip(near, structure.factor_shapes, strict=True)]
    weight = reconstruct(factors, structure)
    error = rebuilt_error(weight, refine(weight, factors, structure), structure)
    assert error <= rebuilt_error(weight, factors, structure) + 1e-12


def test_refining_helps_where_the_sequence_is_not_optimal():
    torch.manual_seed(0)
    weight = torch.randn(8, 8, 3, 3, dtype=torch.float64)
    structure = Structure.parse("sekron:2x4x1x1,2x2x3x1,2x1x1x3@4,3")
    factors = decompose(weight, structure)
    refined = refine(weight, factors, structure)
    start = rebuilt_error(weight, factors, structure)
    assert rebuilt_error(weight, refined, structure) < 0.96 * start


@pytest.mark.parametrize("case", ["sekron-2", "spatial-svd", "rank-1", "linear"])
def test_two_factors_are_the_truncated_svd_of_the_rearranged_weight(case):
    structure, weight = made(case)
    first, second = structure.shapes
    n_modes = len(first)
    interleaved = weight.double().reshape(
        [s for pair in zip(first, second, strict=True) for s in pair]
    )
    rearranged = interleaved.permute(*range(0, 2 * n_modes, 2), *range(1, 2 * n_modes, 2))
    values = torch.linalg.svd(rearranged.reshape(prod(first), prod(second))).S
    discarded = float(values[structure.ranks[0] :].square().sum() / values.square().sum()) ** 0.5
    assert relative_error(weight, structure) == pytest.approx(discarded, abs=1e-7)


@pytest.mark.parametrize("family", ["chain", "cp", "tucker", "ring"])
def test_all_families_agree_on_two_factors(family):
    structure, weight = made("sekron-2")
    ranks = (4, 1) if family == "ring" else (4,)
    same = Structure(family, structure.shapes, ranks)
    best = relative_error(weight, Structure("sekron", structure.shapes, (4,)))
    assert relative_error(weight, same) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("case", ["tensor-train", "chain-3", "tucker-2"])
def test_chain_is_the_tensor_train_of_the_digits(case):
    structure, weight = made(case)
    digits = to_digits(weight.double(), structure.shapes)
    train = tensor_train(digits.numpy(), rank=[1, *structure.ranks, 1])
    error = tensorly.norm(digits.numpy() - tensorly.tt_to_tensor(train)) / float(digits.norm())
    assert relative_error(weight, structure) == pytest.approx(float(error), abs=1e-7)


@pytest.mark.parametrize("family", FULL_RANK)
def test_full_rank_is_exact(family):
    torch.manual_seed(0)
    structure, weight = Structure.parse(FULL_RANK[family]), torch.randn(14, 10, 3, 5)
    assert relative_error(weight, structure) < 1e-5
    torch.testing.assert_close(
        reconstruct(decompose(weight, structure), structure), weight, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("case", [c for c in STRUCTURES if c.startswith(("sekron", "chain"))])
def test_all_factors_but_the_last_are_orthonormal(case):
    structure, weight = made(case)
    for k, factor in enumerate(decompose(weight.double(), structure)[:-1]):
        if structure.family == "sekron":
            rows = factor.reshape(-1, structure.ranks[k], prod(structure.shapes[k]))
        else:
            rows = (factor if k == 0 else factor.transpose(0, 1)).reshape(structure.ranks[k], -1)
        identity = torch.eye(structure.ranks[k], dtype=torch.float64).expand_as(rows @ rows.mT)
        torch.testing.assert_close(rows @ rows.mT, identity)


@pytest.mark.parametrize("family", EXACT)
def test_a_larger_rank_is_never_worse(family):
    torch.manual_seed(0)
    shapes = Structure.parse(STRUCTURES["sekron-3"]).shapes
    weight = torch.randn(14, 10, 3, 5)
    grid = {
        ranks: relative_error(weight, Structure(family, shapes, ranks))
        for ranks in product((1, 2, 5), (1, 3, 5))
    }
    for (first, second), error in grid.items():
        assert all(error >= e - 1e-9 for (a, b), e in grid.items() if a >= first and b >= second)


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 7, 5), (2, 4, 4)], ids=str)
def test_leading_directions_are_those_of_an_svd(shape):
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    left, right = leading(matrices, 3)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    torch.testing.assert_close(left @ right, (u[..., :3] * s[:, None, :3]) @ v[:, :3])
    torch.testing.assert_close(left.mT @ left, torch.eye(3).double().expand(shape[0], 3, 3))


@every_structure
def test_half_precision_is_computed_in_fp64_and_cast_back(case):
    structure, weight = made(case)
    half = weight.bfloat16()
    exact = decompose(half.double(), structure)
    for found, wide in zip(decompose(half, structure), exact, strict=True):
        assert torch.equal(found, wide.bfloat16())


@every_structure
def test_nothing_but_the_weight_and_the_seed_matters(case):
    structure, weight = made(case)
    parameter = torch.nn.Parameter(weight.clone())
    state = torch.get_rng_state()
    first = decompose(parameter, structure, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(parameter, weight)
    assert not any(a.requires_grad for a in first)
    strided = weight.transpose(0, 1).contiguous().transpose(0, 1)
    other = decompose(strided, structure, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@every_structure
def test_a_weight_of_zeros_is_exact(case):
    structure, weight = made(case)
    factors = decompose(torch.zeros_like(weight), structure)
    assert all(torch.isfinite(a).all() for a in factors)
    assert not reconstruct(factors, structure).any()
    assert relative_error(torch.zeros_like(weight), structure) == 0.0


@pytest.mark.parametrize("function", [decompose, relative_error], ids=lambda f: f.__name__)
def test_weights_that_cannot_be_decomposed(function):
    structure, weight = made("sekron-2")
    with pytest.raises(
        ValueError, match=r"must have the shape \(14, 10, 3, 5\) of sekron:.*14, 10, 3,"
    ):
        function(weight[..., :4], structure)
    for value in (float("nan"), float("inf")):
        weight[0, 0, 0, 0] = value
        with pytest.raises(ValueError, match="must be finite, got NaN or Inf"):
            function(weight, structure)


def test_a_degenerate_cp_is_refused(monkeypatch):
    torch.manual_seed(0)
    a, b = torch.randn(2, 14, dtype=torch.float64), torch.randn(2, 10, dtype=torch.float64)
    c = torch.randn(2, 15, dtype=torch.float64)
    # Of rank 3, but arbitrarily close to rank 2: the best fit does not exist, its terms diverge.
    weight = sum(
        torch.einsum("i,j,k->ijk", a[x], b[y], c[z])
        for x, y, z in ((0, 0, 1), (0, 1, 0), (1, 0, 0))
    ).reshape(14, 10, 3, 5)
    structure = Structure.parse("cp:14x1x1x1,1x10x1x1,1x1x3x5@2")
    monkeypatch.setattr("sekron.decomposition.decompose.MAX_TERM_NORM", 1.2)
    with pytest.raises(ValueError, match=r"terms of a CP must not cancel.* lower the rank or take"):
        decompose(weight, structure)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.bool], ids=str)
def test_a_weight_that_is_not_of_real_numbers_is_refused(dtype):
    weight = torch.ones(4, 6, dtype=dtype)
    with pytest.raises(ValueError, match=f"must be of a floating type, got {dtype}"):
        decompose(weight, Structure.parse("chain:4x1,1x6@4"))


@pytest.mark.parametrize(
    "shapes", [[(2, 4, 1)], [(2, 4, 1), (2, 1, 6), (1,)], [(2, 4, 1), (2, 6, 1)]], ids=str
)
def test_factors_of_other_shapes_are_refused(shapes):
    structure, factors = Structure.parse("chain:4x1,1x6@2"), [torch.ones(s) for s in shapes]
    with pytest.raises(ValueError, match=r"must have the shapes \(\(2, 4, 1\), \(2, 1, 6\)\), got"):
        reconstruct(factors, structure)
    with pytest.raises(ValueError, match="must have the shapes"):
        refine(torch.ones(4, 6), factors, structure)


@pytest.mark.parametrize("case", ["cp-4", "ring-3"])
def test_random_starts_do_not_depend_on_the_default_device(case):
    structure, weight = made(case)
    wanted = decompose(weight, structure)
    with torch.device("meta"):
        found = decompose(weight, structure)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
