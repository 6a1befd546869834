"""The factorized convolution against torch's own on the rebuilt kernel, in fp64."""

import copy
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune

from search.clock.peak_memory import peak_activation_bytes
from sekron import SeKronConv2d, Structure, decompose
from sekron.layers.operations import Form
from sekron.profiling.count import count_flops
from tests.oracles import check_forms, check_gradients

STRUCTURES = {
    "dense": "chain:7x5x3x2",
    "sekron-2": "sekron:7x3x1x2,2x5x3x1@4",
    "sekron-3": "sekron:2x3x1x1,5x2x3x1,1x1x1x3@2,3",
    "sekron-4": "sekron:3x1x1x2,2x5x1x1,1x3x3x1,2x1x1x1@2,3,2",
    "spatial-svd": "chain:7x1x3x1,1x5x1x2@4",
    "channel-svd": "chain:7x1x1x1,1x5x3x2@5",
    "tucker-2": "chain:7x1x1x1,1x1x3x2,1x5x1x1@3,2",
    "chain-3": "chain:2x3x1x1,5x1x3x1,1x2x1x3@4,3",
    "chain-4": "chain:7x1x1x1,1x1x3x1,1x1x1x2,1x5x1x1@3,4,2",
    "ring-2": "ring:3x5x1x2,2x1x3x1@2,3",
    "ring-3": "ring:7x1x1x1,1x1x3x2,1x5x1x1@2,3,2",
    "ring-4": "ring:3x1x1x1,2x5x1x1,1x2x3x1,1x1x1x2@2,3,2,3",
    "cp-2": "cp:7x1x3x1,1x5x1x2@3",
    "cp-3": "cp:3x2x1x1,2x1x3x1,1x5x1x2@3",
    "cp-4": "cp:7x1x1x1,1x5x1x1,1x1x3x1,1x1x1x2@5",
    "tucker-2-factors": "tucker:7x1x3x1,1x5x1x2@3",
    "tucker-3": "tucker:3x2x1x1,2x5x3x1,1x1x1x2@2,2",
    "tucker-core": "tucker:7x1x1x1,1x5x1x1,1x1x3x2,1x1x1x1@3,2,4",
    "rank-1": "sekron:3x2x3x1,2x5x1x2@1",
    "rank-1-in-the-middle": "chain:2x3x1x1,5x1x3x1,1x2x1x1,1x1x1x3@4,1,2",
    "1x1": "sekron:3x2x1x1,2x5x1x1@3",
    "1x1-chain": "chain:7x1x1x1,1x5x1x1@3",
    "split-kernel": "sekron:1x5x3x2,6x1x2x1,1x1x1x3@3,2",
}
GEOMETRIES = {
    "plain": {},
    "no-bias": {"bias": False},
    "stride": {"stride": 2},
    "stride-pair": {"stride": (3, 2), "padding": 1, "bias": False},
    "padding": {"padding": (2, 1)},
    "same": {"padding": "same"},
    "same-dilated": {"padding": "same", "dilation": (1, 2)},
    "valid": {"padding": "valid", "stride": (1, 2)},
    "dilation": {"dilation": (2, 1)},
    "all": {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2)},
    "reflect": {"padding": (2, 1), "padding_mode": "reflect"},
    "reflect-same": {"padding": "same", "padding_mode": "reflect"},
    "replicate": {"padding": 2, "padding_mode": "replicate", "stride": (1, 2)},
    "circular": {"padding": (1, 2), "padding_mode": "circular", "dilation": 2},
    "circular-all": {"padding": 2, "padding_mode": "circular", "dilation": (2, 1), "stride": 3},
}
# torch's own convolution says that it pads unevenly; the factorized layer does so by itself.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def layer_of(case, **arguments):
    torch.manual_seed(0)
    return SeKronConv2d(Structure.parse(STRUCTURES[case]), dtype=torch.float64, **arguments)


def images(layer, height=17, width=19):
    return torch.randn(2, layer.structure.weight_shape[1], height, width, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@every_structure
def test_every_form_equals_the_dense_convolution(case, geometry):
    make = partial(layer_of, case, **GEOMETRIES[geometry])
    check_forms(make, images(make()))


@pytest.mark.parametrize("geometry", ["plain", "all", "reflect"])
@every_structure
def test_gradients_equal_those_through_the_rebuilt_kernel(case, geometry):
    layer = layer_of(case, **GEOMETRIES[geometry])
    check_gradients(layer, images(layer))


@every_structure
def test_factors_go_in_and_out_unchanged(case):
    for order in permutations(range(layer_of(case).structure.length)):
        layer = layer_of(case, form=Form(order))
        factors = tuple(torch.randn(s).double() for s in layer.structure.factor_shapes)
        layer.set_factors(factors)
        assert all(torch.equal(a, b) for a, b in zip(layer.factors(), factors, strict=True))


@every_structure
def test_layout_batch_copy_and_state_do_not_matter(case):
    layer = layer_of(case, padding=1, stride=(1, 2))
    x = images(layer)
    with torch.no_grad():
        y = layer(x)
        torch.testing.assert_close(layer(x.to(memory_format=torch.channels_last)), y)
        torch.testing.assert_close(layer(x[0]), y[0])
        torch.testing.assert_close(layer(x.transpose(2, 3).contiguous().transpose(2, 3)), y)
        twin = copy.deepcopy(layer)
        assert torch.equal(twin(x), y)
        fresh = layer_of(case, padding=1, stride=(1, 2))
        fresh.reset_parameters()
        fresh.load_state_dict(layer.state_dict())
        assert torch.equal(fresh(x), y)
        twin.weights[0].add_(1.0)
        assert torch.equal(layer(x), y)


@every_structure
def test_autocast_runs_and_is_close(case):
    layer = layer_of(case, padding=1).float()
    x = images(layer).float()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y, dense = layer(x), layer.to_conv2d()(x)
    exact = layer(x).detach()
    assert float((y.float() - exact).norm() / exact.norm()) < 0.02
    assert float((dense.float() - exact).norm() / exact.norm()) < 0.02


def test_autocast_gives_the_dtype_of_a_dense_convolution():
    layer = layer_of("sekron-2").float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(images(layer).float()).dtype == torch.bfloat16


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("case", ["tucker-2", "sekron-2", "sekron-3"])
def test_an_empty_batch_gives_an_empty_batch(case, matmul):
    layer = layer_of(case, form=Form(None, matmul))
    assert layer(images(layer)[:0]).shape == layer.to_conv2d()(images(layer)[:0]).shape


def test_matrix_products_of_many_images_need_no_more_memory_than_convolutions():
    structure = Structure.parse("chain:31x1x1x1,1x29x1x1@23")
    x = torch.randn(11, 29, 3, 2)  # a copy of a weight for each image would outweigh these
    needed = [
        peak_activation_bytes(SeKronConv2d(structure, form=Form(None, matmul), bias=False), x)
        for matmul in (False, True)
    ]
    assert needed == [x.element_size() * 11 * 3 * 2 * (23 + 31)] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_decomposed_in_fp64_and_cast_back(dtype):
    structure = Structure.parse(STRUCTURES["sekron-2"])
    conv = nn.Conv2d(15, 14, (3, 2), dtype=dtype)
    layer = SeKronConv2d.from_conv2d(conv, structure)
    assert {p.dtype for p in layer.parameters()} == {dtype}
    for found, exact in zip(
        layer.factors(), decompose(conv.weight.double(), structure), strict=True
    ):
        assert torch.equal(found, exact.to(dtype))


@pytest.mark.parametrize(
    "text",
    [
        "chain:14x1x3x1,1x10x1x5@42",
        "sekron:7x2x1x5,2x5x3x1@30",
        "sekron:7x2x1x1,2x1x3x1,1x5x1x5@14,6",
        "chain:2x5x1x1,7x1x1x5,1x2x3x1@10,6",
        "tucker:14x1x3x1,1x10x1x5@42",
    ],
)
def test_full_rank_is_the_original_layer(text):
    torch.manual_seed(0)
    conv = nn.Conv2d(10, 14, (3, 5), stride=2, padding=(1, 2), padding_mode="circular").eval()
    layer = SeKronConv2d.from_conv2d(conv, Structure.parse(text))
    x = torch.randn(3, 10, 16, 18)
    with torch.no_grad():
        assert float((layer(x) - conv(x)).norm() / conv(x).norm()) < 1e-4
    assert torch.equal(layer.bias, conv.bias)
    assert layer.bias.data_ptr() != conv.bias.data_ptr()
    assert not layer.training


def test_a_layer_keeps_the_arguments_of_the_convolution():
    conv = nn.Conv2d(5, 7, (3, 2), stride=(2, 1), padding="valid", dilation=(1, 2), bias=False)
    layer = SeKronConv2d.like(conv, Structure.parse(STRUCTURES["cp-4"]))
    back = layer.to_conv2d()
    for name in ("stride", "padding", "dilation", "padding_mode", "kernel_size", "bias"):
        assert getattr(back, name) == getattr(conv, name)
    assert STRUCTURES["cp-4"] in repr(layer)


def test_a_new_layer_has_the_variance_of_a_new_dense_one():
    torch.manual_seed(0)
    layer = SeKronConv2d(Structure.parse("sekron:8x8x3x1,4x4x1x3@7"))
    dense = nn.Conv2d(32, 32, 3)
    ratio = layer.dense_weight().detach().std() / dense.weight.detach().std()
    assert float(ratio) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"padding": "same", "stride": 2}, "padding='same' needs stride 1, got stride=.2, 2."),
        ({"padding": "full"}, "padding must be numbers, 'same' or 'valid', got 'full'"),
        ({"padding_mode": "mirror"}, "must be one of zeros, reflect, .*, got 'mirror'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_of("cp-4", **arguments)


def test_structures_and_convolutions_that_do_not_fit():
    structure = Structure.parse("chain:6x1x3x1,1x2x1x3@2")
    with pytest.raises(ValueError, match="must have the groups of the convolution, 2, got chain"):
        SeKronConv2d.from_conv2d(nn.Conv2d(4, 6, 3, groups=2), structure)
    with pytest.raises(ValueError, match=r"must have the shape \(6, 2, 3, 3\) of .* \(6, 4, 3, 3"):
        SeKronConv2d.from_conv2d(nn.Conv2d(4, 6, 3), structure)
    with pytest.raises(ValueError, match=r"SeKronConv2d stands for .*, got ConvTranspose2d"):
        SeKronConv2d.from_conv(nn.ConvTranspose2d(6, 2, 3), structure)
    with pytest.raises(ValueError, match="a weight of 4 modes, got chain:6x1,1x4@2"):
        SeKronConv2d(Structure.parse("chain:6x1,1x4@2"))


class Doubled(nn.Module):
    def forward(self, weight):
        return 2.0 * weight


@pytest.mark.parametrize("case", ["spatial-svd", "tucker-2", "sekron-3"])
@pytest.mark.parametrize("k", [0, 1])
def test_a_factor_that_is_computed_stays_in_its_place(case, k):
    layer = layer_of(case)
    sizes = layer.weights[k].detach().abs()
    half = sizes > sizes.median()
    expected, masked, doubled = copy.deepcopy(layer), copy.deepcopy(layer), copy.deepcopy(layer)
    expected.weights[k].data.mul_(half)
    prune.custom_from_mask(masked.weights, str(k), half)
    x = images(layer)
    torch.testing.assert_close(masked(x), expected(x))
    expected.weights[k].data.copy_(2.0 * layer.weights[k])
    parametrize.register_parametrization(doubled.weights, str(k), Doubled())
    torch.testing.assert_close(doubled(x), expected(x))


def test_equal_to_a_plain_functional_convolution():
    layer = layer_of("spatial-svd", bias=False)
    right, left = layer.weights
    x = images(layer)
    torch.testing.assert_close(layer(x), F.conv2d(F.conv2d(x, right), left))


@pytest.mark.parametrize("matmul", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "text",
    [
        "sekron:16x1x1x1,1x8x1x1@4",
        "sekron:4x2x1x1,4x4x1x1@4",
        "sekron:4x2x3x1,4x4x1x3@4",
        "chain:16x1x1x1,1x1x3x3,1x8x1x1@5,6",
        "cp:16x1x1x1,1x1x3x3,1x8x1x1@5",
    ],
)
def test_the_layout_of_the_input_is_that_of_the_output(text, layout, matmul):
    layer = SeKronConv2d(Structure.parse(text), form=Form(None, matmul), dtype=torch.float64)
    x = torch.randn(2, 8, 9, 9, dtype=torch.float64).contiguous(memory_format=layout)
    y = layer(x)
    torch.testing.assert_close(y, F.conv2d(x, layer.dense_weight(), layer.bias))
    assert y.is_contiguous(memory_format=layout)
    (counted, _), (same, _) = (count_flops(layer, (z[:1],)) for z in (x, x.contiguous()))
    assert counted == same
