"""TensorLy's decompositions, converted: the same tensor, the same number of stored values."""

import pytest
import tensorly as tl
import torch
from tensorly import random as tl_random
from tensorly.cp_tensor import cp_to_tensor
from tensorly.tr_tensor import tr_to_tensor
from tensorly.tt_tensor import tt_to_tensor
from tensorly.tucker_tensor import tucker_to_tensor

import baselines
from sekron import SeKronConv2d, reconstruct
from tests.conftest import decayed

SHAPES = [(8, 6, 3, 3), (6, 8, 3, 2), (7, 5), (4, 3, 2, 3, 2)]


@pytest.fixture(params=SHAPES, ids=str)
def weight(request):
    torch.manual_seed(0)
    return torch.randn(request.param, dtype=torch.float64)


@pytest.fixture
def on_torch():
    with tl.backend_context("pytorch", local_threadsafe=True):
        yield


def same(converted, expected):
    structure, factors = converted
    assert tuple(f.shape for f in factors) == structure.factor_shapes
    torch.testing.assert_close(reconstruct(factors, structure), expected)
    assert sum(f.numel() for f in factors) == structure.n_params


def test_a_tensor_train_is_a_chain(weight, on_torch):
    cores = list(tl_random.random_tt(weight.shape, rank=[1, *[2] * (weight.dim() - 1), 1]))
    cores = [core.double() for core in cores]
    same(baselines.from_tensor_train(cores), tt_to_tensor(cores))
    assert baselines.from_tensor_train(cores)[0].n_params == sum(core.numel() for core in cores)


@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 2], ids=str)
def test_a_tensor_ring_is_a_ring(shape, on_torch):  # TensorLy has no ring of two
    ranks = [2, *[3] * (len(shape) - 1), 2]
    cores = [core.double() for core in tl_random.random_tr(shape, rank=ranks)]
    same(baselines.from_tensor_ring(cores), tr_to_tensor(cores))
    assert baselines.from_tensor_ring(cores)[0].n_params == sum(core.numel() for core in cores)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_cp_tensor_is_a_cp(weight, on_torch, weighted):
    torch.manual_seed(1)
    factors = [torch.randn(size, 3, dtype=torch.float64) for size in weight.shape]
    weights = torch.tensor([1.0, 2.0, -3.0], dtype=torch.float64) if weighted else None
    same(baselines.from_cp(weights, factors), cp_to_tensor((weights, factors)))


def test_a_tucker_tensor_is_a_tucker(weight, on_torch):
    torch.manual_seed(1)
    core = torch.randn([2] * weight.dim(), dtype=torch.float64)
    factors = [torch.randn(size, 2, dtype=torch.float64) for size in weight.shape]
    same(baselines.from_tucker(core, factors), tucker_to_tensor((core, factors)))


def test_modes_may_stand_in_any_order(on_torch):
    modes = (1, 2, 3, 0)
    cores = [core.double() for core in tl_random.random_tt((5, 3, 2, 4), rank=[1, 3, 4, 2, 1])]
    expected = tt_to_tensor(cores).permute(3, 0, 1, 2)
    same(baselines.from_tensor_train(cores, modes), expected)


def test_full_ranks_give_the_weight_back(weight):
    n = weight.numel()
    train = baselines.tensor_train(weight, [n] * (weight.dim() - 1))
    torch.testing.assert_close(reconstruct(train[1], train[0]), weight)
    tucker = baselines.tucker(weight, [n] * weight.dim())
    torch.testing.assert_close(reconstruct(tucker[1], tucker[0]), weight)


def test_tucker_2_has_factors_for_the_channels_only():
    weight = torch.randn(8, 6, 3, 3)
    structure, factors = baselines.tucker(weight, (4, 3), modes=(0, 1))
    assert str(structure) == "tucker:8x1x1x1,1x6x1x1,1x1x3x3@4,3"
    assert [tuple(f.shape[:2]) for f in factors] == [(4, 8), (3, 1), (4, 3)]


@pytest.mark.parametrize("name", ["tensor_train", "tensor_ring", "cp", "tucker"])
def test_layers_run_what_tensorly_found(name):
    conv = decayed(torch.nn.Sequential(torch.nn.Conv2d(6, 8, 3, padding=1, bias=False)))[0].eval()
    ranks = {"tensor_train": (4, 4, 2), "tensor_ring": (2, 4, 4, 3), "cp": 5, "tucker": (4,) * 4}
    structure, factors = getattr(baselines, name)(conv.weight, ranks[name])
    layer = SeKronConv2d.like(conv, structure)
    layer.set_factors(factors)
    x = torch.randn(2, 6, 9, 9)
    with torch.no_grad():
        kernel = reconstruct(factors, structure)
        expected = torch.nn.functional.conv2d(x, kernel, padding=1)
        torch.testing.assert_close(layer(x), expected, atol=1e-4, rtol=1e-4)
    error = (kernel - conv.weight.detach()).norm() / conv.weight.detach().norm()
    assert 0.0 < float(error) < 1.0


def test_the_backend_is_as_it_was():
    before = tl.get_backend()
    baselines.tensor_train(torch.randn(4, 3, 3, 3), (2, 2, 2))
    assert tl.get_backend() == before


def test_the_weight_keeps_its_numbers_and_its_type():
    weight = torch.randn(4, 3, 3, 3).half()
    before = weight.clone()
    _, factors = baselines.tucker(weight, (2, 2, 2, 2))
    assert torch.equal(weight, before)
    assert {f.dtype for f in factors} == {torch.float16}


def test_terms_that_cancel_are_refused_with_the_reason(monkeypatch):
    # the classic tensor of border rank 2: its best approximation of rank 2 does not exist
    a, b = torch.eye(2)
    border = sum(torch.einsum("i,j,k->ijk", *terms) for terms in ((a, a, b), (a, b, a), (b, a, a)))
    monkeypatch.setattr("baselines.decompositions.REGULARIZATION", 0.0)
    monkeypatch.setattr("baselines.decompositions.MAX_TERM_NORM", 2.0)
    with pytest.raises(ValueError, match=r"rank 2 must not diverge, but a term has \S+ times"):
        baselines.cp(border, 2, n_iter_max=2000)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: baselines.tensor_train(w, (2, 2)), "must be 3 ranks of at least 1"),
        (lambda w: baselines.tensor_ring(w, (2, 2, 0, 2)), "must be 4 ranks of at least 1"),
        (lambda w: baselines.tucker(w, (2,), modes=(0, 1)), "must be 2 ranks of at least 1"),
        (lambda w: baselines.cp(w, 10**6), "rank must be between 1 and 54"),
        (lambda _: baselines.from_tensor_train([torch.ones(1, 4, 2)] * 2), "fit each other"),
        (lambda _: baselines.from_cp(None, [torch.ones(4, 2), torch.ones(3, 3)]), "one rank"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(torch.randn(8, 6, 3, 3))
    assert "\n" not in str(error.value)
