"""Candidates of every rival: their errors, costs and factors are what they say."""

import time

import pytest
import tensorly as tl
import torch
from tensorly.decomposition import tensor_train as tl_tensor_train
from tensorly.tt_tensor import tt_to_tensor
from torch import nn

from baselines import METHODS, candidates, methods
from sekron import Structure, reconstruct
from sekron.profiling.profile import profile
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry
from tests.conftest import decayed, rivals_in_short

SIZE = (7, 5)
WEIGHTS = {
    "conv": nn.Conv2d(6, 8, 3),
    "asymmetric": nn.Conv2d(6, 8, (1, 3)),
    "pointwise": nn.Conv2d(10, 12, 1),
    "linear": nn.Linear(10, 14),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_weight = pytest.mark.parametrize("weight", WEIGHTS, indirect=True)


@pytest.fixture(scope="module", autouse=True)
def in_short():
    """Each candidate is looked at: five ranks in place of twelve will do."""
    with rivals_in_short(5, 20):
        yield


@pytest.fixture
def weight(request):
    torch.manual_seed(0)
    layer = WEIGHTS[request.param]
    layer.reset_parameters()
    return decayed(nn.Sequential(layer))[0].weight.detach().double()


def spectra_of(weight, n_calls=1):
    size = SIZE if weight.dim() == 4 else ()
    return Spectra(weight, (Geometry.of(tuple(weight.shape), size),) * n_calls)


def rows_of(method, spectra):
    """All candidates: structure, error, FLOPs, parameters."""
    return [
        (curve.structure(row), curve.errors[row], curve.flops[row], curve.params[row])
        for curve in method.curves(spectra, float("inf"))
        for row in range(len(curve.errors))
    ]


def flops_of(structure):
    return structure.flops(SIZE if len(structure.weight_shape) == 4 else ())


def error_of(weight, structure, factors):
    return float((weight - reconstruct(factors, structure)).norm() / weight.norm())


@every_method
@every_weight
def test_the_factors_have_the_error_of_the_candidate(method, weight):
    rows = rows_of(method, spectra_of(weight))
    assert rows
    for candidate, error, _, _ in rows:
        structure, factors = method.factorize(weight, candidate)
        assert tuple(f.shape for f in factors) == structure.factor_shapes
        found = error_of(weight, structure, factors)
        if structure == candidate:
            assert found == pytest.approx(error, abs=1e-7), candidate
        else:  # orthogonal iteration gains on the truncation
            assert method is METHODS["tucker2"]
            assert found <= error + 1e-7, candidate


@every_method
@every_weight
def test_costs_are_those_of_the_structure(method, weight):
    spectra = spectra_of(weight, n_calls=2)
    for structure, _, flops, params in rows_of(method, spectra):
        assert flops == 2 * flops_of(structure)
        assert params == structure.n_params
        assert flops < 2 * flops_of(Structure.dense(spectra.shape)) or params < weight.numel()


@every_weight
def test_tucker_2_costs_what_its_candidate_does(weight):
    gains = []
    for candidate, error, flops, params in rows_of(METHODS["tucker2"], spectra_of(weight)):
        structure, factors = METHODS["tucker2"].factorize(weight, candidate)
        assert (flops_of(structure), structure.n_params) == (flops, params)
        gains.append(error - error_of(weight, structure, factors))
    spatial = max(weight.shape[2:], default=1) > 1
    assert (max(gains) > 1e-4) == spatial  # an SVD has nothing to gain


@pytest.mark.parametrize("weight", ["conv"], indirect=True)
def test_a_tensor_train_is_tensorlys(weight):
    with tl.backend_context("pytorch", local_threadsafe=True):
        compared = set()
        for structure, *_ in rows_of(METHODS["tensor_train"], spectra_of(weight)):
            order = [max(range(4), key=shape.__getitem__) for shape in structure.shapes]
            compared.add(tuple(order))
            cores = tl_tensor_train(weight.permute(order), rank=[1, *structure.ranks, 1])
            back = [order.index(mode) for mode in range(4)]
            expected = tt_to_tensor(list(cores)).permute(back)
            _, factors = METHODS["tensor_train"].factorize(weight, structure)
            torch.testing.assert_close(reconstruct(factors, structure), expected)
    assert compared == {(0, 1, 2, 3), (1, 2, 3, 0)}


@every_method
@every_weight
def test_nothing_is_begun_after_the_end(method, weight):
    assert list(method.curves(spectra_of(weight), time.perf_counter() - 1.0)) == []


@every_method
@pytest.mark.parametrize("shape", [(4, 3, 2, 2), (5, 7)], ids=str)
def test_zeros_are_factorized_without_error_or_not_at_all(method, shape):
    weight = torch.zeros(shape)
    for structure, error, _, _ in rows_of(method, spectra_of(weight))[:5]:
        made, factors = method.factorize(weight, structure)
        assert error == 0.0
        assert torch.equal(reconstruct(factors, made), weight)


@every_method
def test_factors_have_the_type_of_the_weight_and_leave_it_alone(method, small_weight):
    weight = small_weight.clone()
    rows = rows_of(method, spectra_of(weight))
    _, factors = method.factorize(weight, rows[len(rows) // 2][0])
    assert {f.dtype for f in factors} == {torch.float32}
    assert torch.equal(weight, small_weight)


@every_method
def test_every_searched_layer_gets_a_table_in_order(method, small_network, small_input):
    names = ["8", "6", "11"]
    measured = profile(small_network, small_input, include=names)
    tables = candidates(small_network, measured, method)
    assert list(tables) == [layer.name for layer in measured.searched] == ["6", "8", "11"]
    for layer in measured.searched:
        table = tables[layer.name]
        assert (table.dense_flops, table.dense_params) == (layer.flops, layer.params)
        assert len(table) > 0
        for row in range(len(table)):
            structure = table.structure(row)
            assert structure.weight_shape == layer.weight_shape
            assert layer.flops_of(structure) == table.flops[row]


@pytest.mark.parametrize("number", range(1, 20))
def test_a_grid_is_gone_through_once_from_its_ends_inwards(number):
    grid = [(rank,) for rank in range(number)]
    spread = list(methods._spread(grid))
    assert sorted(spread) == grid
    assert spread[: min(2, number)] == [grid[0], grid[-1]][: min(2, number)]


@every_method
def test_without_time_all_layers_are_dense(method, small_network, small_input):
    measured = profile(small_network, small_input)
    with pytest.warns(UserWarning, match="time was up before all candidates of 3, 6, 8, 11"):
        tables = candidates(small_network, measured, method, max_seconds=-1.0)
    assert [len(table) for table in tables.values()] == [0] * len(measured.searched)
    assert all(table.options(["flops"]).losses.tolist() == [0.0] for table in tables.values())
