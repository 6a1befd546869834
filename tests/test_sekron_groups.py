"""Grouped convolutions: every group its own factors, all of them in one native call per factor."""

from itertools import permutations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import baselines
import search
import sekron
from baselines import METHODS
from baselines.layer_candidates import candidates
from baselines.vbmf import vbmf_plan
from search import Budget
from search.per_layer.space import Space
from sekron import Plan, Structure, decompose, reconstruct, refine, relative_error
from sekron.calibration.metrics import metric_of
from sekron.calibration.moments import Moments, moments
from sekron.layers.operations import Form
from sekron.network.surgery import blank_layer
from sekron.profiling.count import count_flops
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import clipped_ranks, n_ranks
from sekron.structures.geometry import Geometry
from sekron.training.gates import Gated

FAMILIES = ("sekron", "chain", "ring", "tucker", "cp")

CONVS = {
    "strided": lambda: (nn.Conv2d(12, 18, 3, stride=2, padding=1, groups=3), (12, 9, 8)),
    "circular": lambda: (
        nn.Conv1d(8, 16, 5, dilation=2, padding=3, padding_mode="circular", groups=2),
        (8, 20),
    ),
    "volume": lambda: (nn.Conv3d(4, 8, (1, 3, 2), groups=2, bias=False), (4, 3, 4, 5)),
    "transposed": lambda: (
        nn.ConvTranspose2d(12, 18, 3, stride=2, padding=1, output_padding=1, groups=3),
        (12, 5, 4),
    ),
}
every_conv = pytest.mark.parametrize("case", CONVS)


def made(case):
    torch.manual_seed(0)
    conv, shape = CONVS[case]()
    return conv, torch.randn(2, *shape)


def points(block):
    space = Space(block, 3, FAMILIES)
    return [*space.templates(), *space.pairs()[::5]]


def structure_at(point, groups, rank=3):
    family, shapes = point
    ranks = clipped_ranks(family, shapes, [rank] * n_ranks(family, len(shapes)))
    return Structure(family, shapes, ranks, groups)


def block_of(conv):
    return (conv.weight.shape[0] // conv.groups, *conv.weight.shape[1:])


@every_conv
@pytest.mark.parametrize("matmul", [False, True], ids=["conv", "matmul"])
def test_every_form_is_the_grouped_convolution_of_its_factors(case, matmul):
    conv, x = made(case)
    for point in points(block_of(conv)):
        structure = structure_at(point, conv.groups)
        factors = [torch.randn(shape) for shape in structure.factor_shapes]
        for order in permutations(range(structure.length)):
            layer = blank_layer(conv, structure, Form(order, matmul))
            layer.set_factors(factors)
            for own, given in zip(layer.factors(), factors, strict=True):
                assert torch.equal(own, given)
            dense = layer.to_conv()
            assert (type(dense), dense.groups) == (type(conv), conv.groups)
            expected = dense(x)
            scale = float(expected.detach().abs().max())
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5 * scale)


@every_conv
def test_at_full_rank_it_is_the_dense_layer(case):
    conv, x = made(case)
    for point in points(block_of(conv)):
        if point[0] in ("sekron", "chain"):
            small = Plan({"": structure_at(point, conv.groups, rank=1000)}).apply(conv)
            torch.testing.assert_close(small(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_are_those_of_every_group(family):
    torch.manual_seed(0)
    weight = torch.randn(12, 4, 3, 3)
    structure = Structure(family, *structure_of(family), 2)
    factors = decompose(weight, structure)
    assert tuple(tuple(factor.shape) for factor in factors) == structure.factor_shapes
    assert structure.n_params == sum(factor.numel() for factor in factors)
    assert Structure.parse(str(structure)) == structure
    for group, block in enumerate(weight.chunk(2)):
        own = decompose(block, structure.one_group)
        for whole, alone in zip(factors, own, strict=True):
            assert torch.equal(whole[group], alone)
    rebuilt = reconstruct(factors, structure)
    assert rebuilt.shape == structure.weight_shape == weight.shape
    error = float((weight - rebuilt).norm() / weight.norm())
    assert relative_error(weight, structure) == pytest.approx(error, abs=1e-5)
    again = reconstruct(refine(weight, factors, structure), structure)
    assert float((weight - again).norm() / weight.norm()) <= error + 1e-6


def structure_of(family):
    ranks = {"cp": (5,), "ring": (2, 3, 2), "tucker": (3, 2)}.get(family, (3, 2))
    return ((6, 1, 1, 1), (1, 4, 1, 1), (1, 1, 3, 3)), ranks


@pytest.mark.parametrize("in_metric", [False, True], ids=["plain", "metric"])
def test_rank_curves_are_errors_flops_and_parameters_of_the_layer(in_metric):
    torch.manual_seed(0)
    conv = nn.Conv2d(12, 24, 3, groups=3, padding=1, bias=False)
    weight = conv.weight.detach()
    metric = random_metric(3, 8, 4) if in_metric else None
    spectra = Spectra(weight, (Geometry.of(tuple(weight.shape), (7, 6), groups=3),), metric)
    x = torch.randn(1, 12, 7, 6)
    assert spectra.dense_flops == count_flops(conv, (x,))[0]
    exact = Space((8, 4, 3, 3), 3, ("sekron", "chain")).templates()
    shapes = ((8, 1, 1, 1), (1, 4, 1, 1), (1, 1, 3, 3))
    for point in (*exact[::4], ("cp", shapes), ("tucker", shapes)):
        curve = spectra.curve(*point)
        assert len(curve.errors) > 0
        for row in range(0, len(curve.errors), 7):
            structure = curve.structure(row)
            error = relative_error(weight, structure, metric)
            assert curve.errors[row] == pytest.approx(error, abs=1e-6)
            assert curve.params[row] == structure.n_params
            layer = blank_layer(conv, structure, Form())
            assert curve.flops[row] == structure.flops((7, 6)) == count_flops(layer, (x,))[0]


def random_metric(groups, n_out, n_in):
    roots = [torch.randn(groups, n, 2 * n, dtype=torch.float64) for n in (n_out, n_in)]
    return metric_of(Moments(*(root @ root.mT for root in roots), 5.0))


def test_a_metric_is_one_of_every_group():
    torch.manual_seed(0)
    metric, weight = random_metric(3, 8, 4), torch.randn(24, 4, 3, 3, dtype=torch.float64)
    whitened = metric.whiten(weight)
    for own, block, part in zip(metric.by_group(), weight.chunk(3), whitened.chunk(3), strict=True):
        assert (own.output.shape, own.input.shape) == ((8, 8), (4, 4))
        torch.testing.assert_close(own.whiten(block), part)
    torch.testing.assert_close(metric.inverse().whiten(whitened), weight)


@pytest.mark.parametrize("largest_patch", [0, 1000], ids=["channels", "patches"])
def test_moments_are_those_of_every_group(largest_patch):
    torch.manual_seed(0)
    model = nn.Conv2d(6, 8, 3, groups=2)
    x = torch.randn(5, 6, 6, 6)
    whole = moments(model, [""], [x], largest_patch=largest_patch)[""]
    for group in range(2):
        alone = nn.Conv2d(3, 4, 3)
        alone.weight.data.copy_(model.weight[4 * group : 4 * group + 4])
        own = moments(alone, [""], [x[:, 3 * group : 3 * group + 3]], largest_patch=largest_patch)
        torch.testing.assert_close(whole.inputs[group], own[""].inputs)
    assert whole.gradients.shape == (2, 4, 4)


def test_gates_of_a_rank_belong_to_all_groups():
    torch.manual_seed(0)
    conv, x = made("strided")
    structure = structure_at(("chain", ((6, 1, 3, 1), (1, 4, 1, 3))), 3, rank=12)
    layer = Plan({"": structure}).apply(conv)
    gated = Gated(layer)
    torch.testing.assert_close(gated(x), layer(x), rtol=1e-4, atol=1e-5)
    assert [gate.shape for gate in gated.gates] == [(12,)]
    with torch.no_grad():
        gated.gates[0][3:] = 0.0
    cut = blank_layer(conv, gated.structure(0.0001), Form())
    assert cut.structure.ranks == (3,)
    cut.set_factors(gated.cut(0.0001))
    cut.bias.data.copy_(conv.bias)
    torch.testing.assert_close(cut(x), gated(x), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 32, 3, groups=2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, groups=4, stride=2),
        nn.Flatten(),
        nn.Linear(16 * 18 * 18, 5),
    ).eval()


def test_a_network_is_searched_applied_refitted_saved_and_loaded(network, tmp_path):
    batches = [torch.randn(6, 3, 8, 8) for _ in range(2)]
    result = search.run(
        network,
        batches[0],
        budget=Budget(flops=0.5),
        n_trials=3,
        measure_seconds=0,
        calibration=batches,
        run=tmp_path / "run",
        progress=False,
    )
    assert set(result.best) == {"1", "4"}
    assert {s.groups for s in result.best.values()} == {2, 4}
    small = result.best.apply(network)
    totals = result.profile.totals(result.best)
    assert count_flops(small, (batches[0][:1],))[0] == totals["flops"]
    assert sum(p.numel() for p in small.parameters()) == totals["params"]
    loaded = search.load(tmp_path / "run")
    assert loaded.best == result.best
    torch.testing.assert_close(loaded.best.apply(network)(batches[0]), small(batches[0]))
    assert sekron.refit(small, network, batches, steps=5, progress=False) <= 1.0
    assert sekron.tune(small, network, batches, steps=3, progress=False) <= 1.0
    sekron.save(small, tmp_path / "small.safetensors")
    again = sekron.load(network, tmp_path / "small.safetensors")
    assert torch.equal(again(batches[0]), small(batches[0]))


def test_groups_that_do_not_fit(network):
    with pytest.raises(ValueError, match="layer '1' has 2 groups there and 1 in the plan"):
        Plan({"1": Structure.parse("chain:32x1x3x1,1x8x1x3@4")}).apply(network)
    with pytest.raises(ValueError, match="a linear layer has a weight of 2 modes, no groups"):
        sekron.SeKronLinear(Structure.parse("2*chain:6x1,1x4@2"))
    with pytest.raises(
        ValueError, match="sizes and ranks must be at least 1, got 'chain:6x1,1x4@2"
    ):
        Structure("chain", ((6, 1), (1, 4)), (2,), 0)
    with pytest.raises(ValueError, match=r"groups must divide the channels of \(7, 2\), got 2"):
        Structure.dense((7, 2), 2)
    with pytest.raises(ValueError, match="a structure reads 'family:shape"):
        Structure.parse("two*chain:6x1,1x4@2")


def test_rivals_leave_grouped_layers_dense(network):
    frame = baselines.compare(network, torch.zeros(1, 3, 8, 8), Budget(flops=0.95), methods=["cp"])
    found = frame.set_index("ranks_by")["flops_ratio"]
    assert len(found) > 0
    assert found.isna().all()  # there is nothing else to factorize here
    profile = search.profile(network, torch.zeros(1, 3, 8, 8))
    assert all(len(t) == 0 for t in candidates(network, profile, METHODS["cp"]).values())
    assert vbmf_plan(network, profile, Budget(flops=1.0)) == {}


def test_a_funnel_closes_gates_of_grouped_layers_too(network):
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % 5
    found = search.funnel(
        network,
        DataLoader(TensorDataset(images, labels), 4),
        images[:1],
        budget=Budget(flops=0.6),
        recipe=sekron.Recipe(epochs=1),
        progress=False,
    )
    assert found.plan
    assert {s.groups for s in found.plan.values()} <= {2, 4}
    totals = search.profile(network, images[:1]).totals(found.plan)
    assert count_flops(found.network, (images[:1],))[0] == totals["flops"]
