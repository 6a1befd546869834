"""The factorized linear layer against the rebuilt one, in fp64."""

import copy
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sekron import SeKronLinear, Structure, reconstruct
from sekron.layers.operations import Form

STRUCTURES = {
    "dense": "chain:7x5",
    "svd": "chain:7x1,1x5@3",
    "gkpd": "sekron:3x5,2x7@4",
    "sekron-3": "sekron:2x2,2x1,3x5@3,2",
    "sekron-4": "sekron:2x1,1x5,3x2,5x3@2,3,2",
    "chain-3": "chain:5x1,3x2,1x7@3,2",
    "ring-3": "ring:5x2,3x1,1x7@2,3,2",
    "cp-3": "cp:5x2,3x1,1x7@4",
    "tucker-3": "tucker:13x1,1x11,1x1@4,3",
    "tucker-4": "tucker:3x2,5x1,1x7,1x1@2,3,2",
    "rank-1": "sekron:3x5,2x7@1",
}
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def layer_of(case, **arguments):
    torch.manual_seed(0)
    return SeKronLinear(Structure.parse(STRUCTURES[case]), dtype=torch.float64, **arguments)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("leading", [(), (4,), (2, 3)], ids=["vector", "batch", "sequence"])
@every_structure
def test_every_order_equals_the_dense_layer(case, leading, bias):
    first = layer_of(case, bias=bias)
    x = torch.randn(*leading, first.structure.weight_shape[1], dtype=torch.float64)
    expected = first.to_linear()(x)
    for order in [None, *permutations(range(first.structure.length))]:
        layer = layer_of(case, bias=bias, form=Form(order))
        layer.set_factors(first.factors())
        if bias:
            layer.bias.data.copy_(first.bias)
        torch.testing.assert_close(layer(x), expected)


@every_structure
def test_gradients_equal_those_through_the_rebuilt_weight(case):
    layer = layer_of(case)
    x = torch.randn(3, layer.structure.weight_shape[1], dtype=torch.float64, requires_grad=True)
    factors = [a.detach().requires_grad_() for a in layer.factors()]
    y = F.linear(x, reconstruct(factors, layer.structure))
    direction = torch.randn_like(y)
    expected = torch.autograd.grad(y, [x, *factors], direction)
    found = torch.autograd.grad(layer(x), [x, *layer.weights], direction)
    torch.testing.assert_close(found[0], expected[0])
    for operation, gradient in zip(layer.operations, found[1:], strict=True):
        torch.testing.assert_close(operation.unpack(gradient), expected[1 + operation.factor])


@every_structure
def test_copy_state_and_autocast(case):
    layer = layer_of(case)
    x = torch.randn(4, layer.structure.weight_shape[1], dtype=torch.float64)
    fresh = layer_of(case)
    fresh.reset_parameters()
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer.float()(x.float()).double()
    assert float((y - fresh(x)).detach().norm() / fresh(x).detach().norm()) < 0.02


@pytest.mark.parametrize(
    "text", ["chain:14x1,1x15@14", "sekron:7x3,2x5@10", "chain:2x3,7x1,1x5@6,5"]
)
def test_full_rank_is_the_original_layer(text):
    torch.manual_seed(0)
    linear = nn.Linear(15, 14).eval()
    layer = SeKronLinear.from_linear(linear, Structure.parse(text))
    x = torch.randn(4, 15)
    with torch.no_grad():
        assert float((layer(x) - linear(x)).norm() / linear(x).norm()) < 1e-4
    assert torch.equal(layer.bias, linear.bias)
    assert layer.bias.data_ptr() != linear.bias.data_ptr()
    assert not layer.training


@pytest.mark.parametrize("case", ["svd", "gkpd"])
def test_an_empty_batch_gives_an_empty_batch(case):
    layer = layer_of(case)
    x = torch.randn(0, layer.structure.weight_shape[1], dtype=torch.float64)
    assert layer(x).shape == (0, layer.structure.weight_shape[0])


def test_structures_that_do_not_fit():
    with pytest.raises(ValueError, match="a weight of 2 modes, no groups, got chain:7x1x1,1x5x3@2"):
        SeKronLinear(Structure.parse("chain:7x1x1,1x5x3@2"))
    with pytest.raises(ValueError, match=r"must have the shape \(7, 5\) of .* got \(7, 6\)"):
        SeKronLinear.from_linear(nn.Linear(6, 7), Structure.parse("chain:7x1,1x5@2"))
