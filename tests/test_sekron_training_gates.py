"""Gates: what they compute, what is left when they close, and what closing them costs."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sekron import (
    SeKronConv2d,
    SeKronConvTranspose,
    SeKronLinear,
    Structure,
    decompose,
    reconstruct,
)
from sekron.training.funnel_penalty import Funnel
from sekron.training.gates import LEAST, Gated, gated

CONVS = [
    "chain:8x1x1x1,1x1x3x3,1x6x1x1@5,4",
    "chain:8x1x1x1,1x1x3x3,1x6x1x1@8,6",
    "sekron:8x1x3x1,1x6x1x3@7",
    "sekron:2x1x3x1,4x3x1x1,1x2x1x3@3,4",
    "cp:8x1x1x1,1x1x3x3,1x6x1x1@6",
    "ring:8x1x1x1,1x1x3x3,1x6x1x1@2,3,4",
    "tucker:8x1x1x1,1x6x1x1,1x1x3x3@5,4",
]


def gated_conv(text, gates=None):
    generator = torch.Generator().manual_seed(0)
    layer = SeKronConv2d(Structure.parse(text), padding=1, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    module = Gated(layer)
    for gate, values in zip(module.gates, gates or [], strict=False):
        gate.data.copy_(torch.tensor(values))
    return module


def drawn(text):
    """Return gates, about every third of them below 0.1."""
    generator = torch.Generator().manual_seed(1)
    ranks = Structure.parse(text).ranks
    draws = [torch.rand(rank, generator=generator, dtype=torch.float64) for rank in ranks]
    return [torch.where(draw < 0.35, draw / 10, draw).tolist() for draw in draws]


@pytest.mark.parametrize("text", CONVS)
def test_open_gates_change_nothing(text):
    module, x = gated_conv(text), torch.randn(2, 6, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(module(x), module.layer(x), rtol=0, atol=0)


@pytest.mark.parametrize("text", CONVS)
def test_a_gate_scales_all_that_its_index_carries(text):
    module, x = gated_conv(text, drawn(text)), torch.randn(2, 6, 7, 7, dtype=torch.float64)
    structure = module.layer.structure
    weight = reconstruct(module.factors(), structure)
    torch.testing.assert_close(module(x), F.conv2d(x, weight, module.layer.bias, padding=1))
    for bond, gate in enumerate(module.gates):
        (slope,) = torch.autograd.grad(weight.sum(), gate, retain_graph=True)
        # The weight is linear in every gate.
        of_bond = gated_conv(text, drawn(text))
        with torch.no_grad():
            of_bond.gates[bond][0] += 1.0
            difference = reconstruct(of_bond.factors(), structure) - weight
        torch.testing.assert_close(difference.sum(), slope[0])


def test_a_gate_that_was_pulled_below_zero_is_closed():
    module = gated_conv(CONVS[2], [[0.5, -0.1, 0.0, 1e-9, 2.0, -3.0, 1.0]])
    module.hold()
    assert module.sizes[0].tolist() == pytest.approx([0.5, 0.0, 0.0, 1e-9, 2.0, 0.0, 1.0])


def test_linear_layers_have_gates():
    layer = SeKronLinear(Structure.parse("sekron:8x1,1x6@4"))
    x = torch.randn(3, 6)
    torch.testing.assert_close(Gated(layer)(x), layer(x))


@pytest.mark.parametrize("text", CONVS)
def test_no_slice_grows_and_none_else_changes(text):
    module = gated_conv(text)
    first = [factor.clone() for factor in module.layer.factors()]
    module.hold()
    assert all(map(torch.allclose, module.layer.factors(), first))
    with torch.no_grad():
        for parameter in module.layer.weights:
            parameter.mul_(3.0)
    module.hold()
    for factor, old, bonds in zip(
        module.layer.factors(), first, module.layer.structure.bonds, strict=True
    ):
        for axis in range(len(bonds)):
            norms, limits = (t.movedim(axis, 0).flatten(1).norm(dim=1) for t in (factor, old))
            assert (norms <= limits * (1 + 1e-12)).all()
    with torch.no_grad():
        for parameter in module.layer.weights:
            parameter.mul_(0.5)
    halved = [factor.clone() for factor in module.layer.factors()]
    module.hold()
    assert all(map(torch.equal, module.layer.factors(), halved))


@pytest.mark.parametrize("text", CONVS)
@pytest.mark.parametrize("threshold", [0.01, 0.1, 0.5, 0.8, math.inf])
def test_what_is_left_computes_what_the_open_gates_do(text, threshold):
    gates = drawn(text)
    module = gated_conv(text, gates)
    structure = module.structure(threshold)
    kept = [[g >= min(threshold, max(values)) for g in values] for values in gates]  # no ties
    zeroed = [
        [g if open_ else 0.0 for g, open_ in zip(values, of, strict=True)]
        for values, of in zip(gates, kept, strict=True)
    ]
    wanted = reconstruct(gated_conv(text, zeroed).factors(), module.layer.structure)
    torch.testing.assert_close(reconstruct(module.cut(threshold), structure), wanted)
    assert all(
        rank <= sum(of) and rank >= 1 for rank, of in zip(structure.ranks, kept, strict=True)
    )


def test_ranks_beyond_an_exact_factorization_are_clipped():
    gates = [[1.0] + [0.0] * 7, [1.0] * 64]
    module = gated_conv("chain:8x1x1x1,1x1x3x3,1x64x1x1@8,64", gates)
    assert module.structure(0.01).ranks == (1, 9)


@pytest.mark.parametrize(
    ("funnel", "progress", "c", "strength"),
    [
        (Funnel(), 0.3, None, 0.01),
        (Funnel(strength=2.0), 0.3, None, 2.0),
        (Funnel("global"), 0.0, 10.0, 0.002),
        (Funnel("global"), 0.5, 0.1, 0.002),
        (Funnel("global"), 1.0, 0.001, 0.002),
    ],
)
def test_the_penalty_is_that_of_the_schedule(funnel, progress, c, strength):
    gates = [torch.tensor([1.0, -0.5]), torch.tensor([0.0, 1e-3, 2.0])]
    first = [torch.tensor([1.5, 0.5]), torch.tensor([0.1, 1e-2, 2.0])]
    wanted = 0.0
    for gate, start in zip(torch.cat(gates).tolist(), torch.cat(first).tolist(), strict=True):
        own_c, m = (0.01 * start, start) if c is None else (c, 1.0)
        wanted += strength * m * abs(gate) / (abs(gate) + own_c)
    assert float(funnel.penalty(gates, first, progress)) == pytest.approx(wanted, rel=1e-5)


def test_every_gate_is_pulled_alike_at_first():
    first = [torch.tensor([1.5, 0.5]), torch.tensor([0.1, 1e-2, 2.0])]
    gates = [own.clone().requires_grad_() for own in first]
    slopes = torch.autograd.grad(Funnel().penalty(gates, first, 0.0), gates)
    torch.testing.assert_close(torch.cat(slopes), torch.full((5,), 0.01 * 0.01 / 1.01**2))


def test_first_values_are_the_singular_values_of_an_svd():
    weight = torch.randn(8, 6, dtype=torch.float64)
    structure = Structure.parse("sekron:8x1,1x6@6")
    layer = SeKronLinear(structure, dtype=torch.float64)
    layer.set_factors(decompose(weight, structure))
    (first,) = Gated(layer).first
    singular = torch.linalg.svdvals(weight)
    torch.testing.assert_close(first, singular / singular.square().mean().sqrt())


def test_an_index_that_carries_nothing_has_a_gate():
    layer = SeKronLinear(Structure.parse("sekron:8x1,1x6@2"))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    assert Gated(layer).first[0].tolist() == pytest.approx([LEAST, LEAST])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("layer",), "must be gate or global, got 'layer'"), (("gate", 0.0), "must be positive")],
)
def test_a_funnel_is_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        Funnel(*arguments)


def test_gated_layers_are_found_by_name():
    module = gated_conv(CONVS[0])
    assert gated(nn.Sequential(nn.ReLU(), nn.Sequential(module))) == {"1.0": module}


def test_it_takes_what_the_layer_takes_and_shows_what_it_is():
    structure = Structure.parse("chain:4x1x3x1,1x6x1x3@5")
    layer = SeKronConvTranspose(structure, stride=2, padding=1)
    module, x = Gated(layer), torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(module(x, output_size=(10, 10)), layer(x, output_size=(10, 10)))
    assert (module.stride, module.bias is layer.bias) == ((2, 2), True)
    with pytest.raises(AttributeError, match="'SeKronConvTranspose' object has no attribute 'no'"):
        _ = module.no
