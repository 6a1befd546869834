"""Steps and their cost: closed form = fvcore = torch's counter / 2, for every order."""

from itertools import pairwise, permutations
from math import prod

import numpy as np
import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search.per_layer.space import Space
from sekron import SeKronConv2d, SeKronLinear, Structure
from sekron.layers.operations import Form, emit
from sekron.structures.families import FAMILIES, n_ranks, whole_channels
from sekron.structures.flops import flops_of_ranks, n_params_of_ranks, orders
from sekron.structures.geometry import Geometry
from sekron.structures.steps import GROUP, REMEMBERED, final_state, steps

CONVS = {
    "dense": "chain:7x5x3x2",
    "sekron-2": "sekron:7x3x1x2,2x5x3x1@4",
    "sekron-3": "sekron:2x3x1x1,5x2x3x1,1x1x1x3@2,3",
    "sekron-4": "sekron:3x1x1x2,2x5x1x1,1x3x3x1,2x1x1x1@2,3,2",
    "chain-2": "chain:7x1x3x1,1x5x1x2@4",
    "chain-3": "chain:7x1x1x1,1x1x3x2,1x5x1x1@3,2",
    "chain-3-split": "chain:2x3x1x1,5x1x3x1,1x2x1x3@4,3",
    "ring-2": "ring:3x5x1x2,2x1x3x1@2,3",
    "ring-3": "ring:7x1x1x1,1x1x3x2,1x5x1x1@2,3,2",
    "cp-3": "cp:3x2x1x1,2x1x3x1,1x5x1x2@3",
    "cp-4": "cp:7x1x1x1,1x5x1x1,1x1x3x1,1x1x1x2@5",
    "tucker-3": "tucker:3x2x1x1,2x5x3x1,1x1x1x2@2,2",
    "tucker-4": "tucker:7x1x1x1,1x5x1x1,1x1x3x2,1x1x1x1@3,2,4",
    "rank-1": "sekron:3x2x3x1,2x5x1x2@1",
    "1x1": "sekron:3x2x1x1,2x5x1x1@3",
    "split-kernel": "sekron:1x5x3x2,6x1x2x1,1x1x1x3@3,2",
}
GEOMETRIES = {
    "same": {"padding": "same"},
    "stride": {"stride": (2, 3), "padding": (2, 1)},
    "dilation": {"dilation": (2, 1), "padding": (1, 3), "stride": (1, 2)},
}
LINEARS = {
    "sekron": "sekron:2x2,2x1,3x5@3,2",
    "chain": "chain:4x1,3x2,1x5@3,2",
    "ring": "ring:4x2,3x1,1x5@2,2,2",
    "cp": "cp:4x2,3x1,1x5@4",
    "tucker": "tucker:12x1,1x10,1x1@4,3",
}


def some_orders(structure):
    every = list(permutations(range(structure.length)))
    return every[:: max(1, len(every) // 6)]


class Together(nn.ModuleList):
    """Layers side by side on one input, so that fvcore traces once for all of them."""

    def forward(self, x):
        return [layer(x) for layer in self]


def counted_by_torch(layer, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def counted_by_fvcore(layers, x):
    count = FlopCountAnalysis(Together(layers), x).unsupported_ops_warnings(False).by_module()
    return [count[str(i)] for i in range(len(layers))]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("case", CONVS)
def test_closed_form_is_what_fvcore_and_torch_count(case, geometry):
    structure, sizes = Structure.parse(CONVS[case]), GEOMETRIES[geometry]
    x = torch.randn(1, structure.weight_shape[1], 14, 13)
    forms = [Form(order, m) for order in some_orders(structure) for m in (False, True)]
    layers = [SeKronConv2d(structure, form=form, **sizes) for form in forms]
    where = Geometry.of(
        structure.weight_shape,
        tuple(layers[0](x).shape[2:]),
        layers[0].stride,
        layers[0].dilation,
        tuple(x.shape[2:]),
    )
    closed_form = [structure.flops_in(layer.order, where) for layer in layers]
    assert closed_form == [counted_by_torch(layer, x) for layer in layers]
    assert closed_form == counted_by_fvcore(layers, x)


@pytest.mark.parametrize("case", LINEARS)
def test_closed_form_of_linear_layers(case):
    structure = Structure.parse(LINEARS[case])
    x = torch.randn(1, 7, structure.weight_shape[1])
    layers = [SeKronLinear(structure, form=Form(order)) for order in some_orders(structure)]
    where = Geometry.of(structure.weight_shape, (7,))
    closed_form = [structure.flops_in(layer.order, where) for layer in layers]
    assert closed_form == [counted_by_torch(layer, x) for layer in layers]
    assert closed_form == counted_by_fvcore(layers, x)


@pytest.mark.parametrize("case", CONVS)
def test_many_ranks_at_once_cost_what_each_costs_alone(case):
    structure = Structure.parse(CONVS[case])
    where = Geometry.of(structure.weight_shape, (9, 8), stride=(1, 2))
    ranks = np.array([structure.ranks, [1] * len(structure.ranks)], dtype=np.int64)
    shapes, bonds = structure.shapes, structure.bonds
    costs = flops_of_ranks(shapes, bonds, ranks, where)
    params = n_params_of_ranks(shapes, bonds, ranks)
    for row, cost, stored in zip(ranks, costs, params, strict=True):
        one = Structure(structure.family, shapes, tuple(map(int, row)))
        assert cost == one.flops((9, 8), stride=(1, 2))
        assert stored == one.n_params


@pytest.mark.parametrize("case", CONVS)
def test_default_order_is_the_cheapest_on_a_large_image(case):
    structure = Structure.parse(CONVS[case])
    for stride in ((1, 1), (2, 3)):
        where = Geometry.of(structure.weight_shape, (10_000, 10_000), stride)
        # Where channels are whole, only orders that run without a permutation are considered.
        allowed = orders(structure.shapes, structure.bonds)
        if not all(whole_channels(structure.shapes)):
            assert set(allowed) == set(permutations(range(structure.length)))
        costs = {o: structure.flops_in(o, where) for o in allowed}
        assert costs[structure.cheapest_order(stride)] <= 1.001 * min(costs.values())


@pytest.mark.parametrize("case", [name for name in CONVS if name.startswith("sekron")])
def test_backward_order_costs_the_formula_of_the_method(case):
    structure = Structure.parse(CONVS[case])
    shapes, length = structure.shapes, structure.length
    formula = (
        15
        * 17
        * sum(
            prod(structure.factor_shapes[k])
            * prod(shape[1] for shape in shapes[:k])
            * prod(shape[0] for shape in shapes[k + 1 :])
            for k in range(length)
        )
    )
    backwards = tuple(reversed(range(length)))
    assert structure.flops_in(backwards, Geometry.of(structure.weight_shape, (15, 17))) == formula


@pytest.mark.parametrize("case", CONVS)
def test_every_digit_and_bond_is_born_once_and_ends_once(case):
    structure = Structure.parse(CONVS[case])
    ranks = {("r", b) for own in structure.bonds for b in own}
    inputs = [("c", k) for k in range(structure.length)]
    outputs = [("f", k) for k in range(structure.length)]
    for order in permutations(range(structure.length)):
        done = steps(structure.shapes, structure.bonds, order)
        assert tuple(step.factor for step in done) == order
        for before, after in pairwise(done):
            assert after.state == before.kept + before.new
        for step in done:
            assert sorted(step.kept + step.summed) == sorted(step.state)
            assert set(step.groups) <= set(step.kept) & {GROUP, *ranks}
        new = [axis for step in done for axis in step.new]
        summed = [axis for step in done for axis in step.summed]
        carried = {axis for axis in ranks if sum(axis[1] in own for own in structure.bonds) > 1}
        assert sorted(new) == sorted([*outputs, *carried])
        assert sorted(summed) == sorted([*inputs, *carried])
        assert sorted(final_state(done)) == [GROUP, *outputs]
        for axis in (0, 1):
            assert sum(step.pads[axis] for step in done) == 1
            assert sum(step.strides[axis] for step in done) == 1


def unsplit_structures(weight_shape, families, ranks):
    for family, shapes in Space(weight_shape, 4, families).templates():
        for rank in ranks:
            allowed = [rank] * n_ranks(family, len(shapes))
            while True:
                try:
                    yield Structure(family, shapes, tuple(allowed))
                    break
                except ValueError:
                    allowed = [max(1, r - 1) for r in allowed]


@pytest.mark.parametrize("family", ["sekron", "chain", "cp", "tucker"])
@pytest.mark.parametrize("weight_shape", [(7, 5, 3, 2), (13, 7, 1, 1)], ids=str)
def test_unsplit_templates_are_plain_convolutions(family, weight_shape):
    for structure in unsplit_structures(weight_shape, (family,), (1, 2, 3)):
        layer = SeKronConv2d(structure)
        assert layer.after is None, str(structure)
        for operation in layer.operations:
            assert operation.before is None, str(structure)
            assert operation.fold == 1, str(structure)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stride", [1, 2])
def test_unsplit_templates_permute_only_where_that_saves_flops(family, stride):
    strides, ones = (stride, stride), (1, 1)
    for structure in unsplit_structures((13, 7, 3, 5), (family,), (2, 5)):
        where = Geometry.of(structure.weight_shape, (10_000, 10_000), strides)
        plain = []
        for order in orders(structure.shapes, structure.bonds):
            operations, after = emit(structure, order, strides, ones)
            assert all(operation.fold == 1 for operation in operations)
            if after is None and all(operation.before is None for operation in operations):
                plain.append(order)
        chosen = structure.cheapest_order(strides)
        if chosen not in plain:
            cheapest = min((structure.flops_in(o, where) for o in plain), default=np.inf)
            assert structure.flops_in(chosen, where) < cheapest, str(structure)


def test_long_sequences_consider_the_two_sweeps():
    structure = Structure("chain", ((2, 1, 1, 1), (1, 2, 1, 1)) * 3 + ((1, 1, 3, 1),), (2,) * 6)
    assert orders(structure.shapes, structure.bonds) == (tuple(range(6, -1, -1)), tuple(range(7)))
    layer, x = SeKronConv2d(structure, dtype=torch.float64), torch.randn(1, 8, 5, 5).double()
    torch.testing.assert_close(layer(x), layer.to_conv2d()(x))


@pytest.mark.parametrize("size", [(), (3,), (3, 3, 3)], ids=str)
def test_output_size_must_have_the_axes_of_the_kernel(size):
    with pytest.raises(ValueError, match=r"`output_size` must have 2 entries.*got"):
        Structure.parse("chain:7x1x3x1,1x5x1x2@4").flops(size)


@pytest.mark.parametrize("kept", [steps, orders])
def test_what_is_kept_has_an_end(kept):
    assert kept.cache_parameters()["maxsize"] == REMEMBERED
