"""Plain layers against the factorized ones that they come from, in fp64."""

import copy
from functools import partial
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn.utils import fusion, prune

from sekron import SeKronConv, SeKronConv2d, SeKronConvTranspose, SeKronLinear, Structure
from sekron.layers.factorized import Factorized
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.layers.plain import plain, reason_to_keep, reshapes
from sekron.network.surgery import blank_layer
from tests import test_sekron_groups as groups
from tests import test_sekron_layers_conv as planes
from tests import test_sekron_layers_conv_nd as lines_and_volumes
from tests import test_sekron_layers_linear as linear
from tests import test_sekron_layers_transposed as transposed

KINDS = {"conv": planes, "conv-nd": lines_and_volumes, "transposed": transposed}
CASES = [
    pytest.param(tests, case, geometry, id=f"{kind}-{case}-{geometry}")
    for kind, tests in KINDS.items()
    for geometry in tests.GEOMETRIES
    for case in tests.STRUCTURES
]
# jit says so of itself, and compiles nothing that would be new.
# torch retires what is tried here: users have it still.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def check(layer, x):
    """A plain layer computes what the factorized one does, with the same parameters."""
    with torch.no_grad():
        expected = layer(x)
        found = plain(copy.deepcopy(layer))
        torch.testing.assert_close(found(x), expected)
        assert sum(p.numel() for p in found.parameters()) == sum(
            p.numel() for p in layer.parameters()
        )
        assert not any(isinstance(module, Factorized) for module in found.modules())
    return found


def check_one_image(layer, plain_layer, x):
    """Without a batch it is the same too, or it is refused: it is never other numbers."""
    with torch.no_grad():
        try:
            found = plain_layer(x)
        except RuntimeError:
            assert reshapes(plain_layer)
        else:
            torch.testing.assert_close(found, layer(x))


def check_tools(module, x):
    """Torch can read the code of a network, and computes the same with what it has read."""
    network = nn.Sequential(module)  # a module of torch's own is no code to be traced
    with torch.no_grad():
        expected = network(x)
        torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), expected)
        torch.testing.assert_close(torch.jit.script(network)(x), expected)


@pytest.mark.parametrize(("tests", "case", "geometry"), CASES)
def test_a_plain_convolution_equals_the_factorized_one_in_every_order(tests, case, geometry):
    first = tests.layer_of(case, **tests.GEOMETRIES[geometry])
    x = tests.images(first)
    for order in permutations(range(first.structure.length)):
        layer = tests.layer_of(case, form=Form(order), **tests.GEOMETRIES[geometry])
        found = check(layer, x)
    check_one_image(layer, found, x[0])
    if geometry in ("plain", "reflect-same", "all"):
        check_tools(found, x)


@pytest.mark.parametrize("leading", [(), (4,), (2, 3)], ids=["vector", "batch", "sequence"])
@pytest.mark.parametrize("case", linear.STRUCTURES)
def test_a_plain_linear_layer_equals_the_factorized_one_in_every_order(case, leading):
    first = linear.layer_of(case)
    x = torch.randn(*leading, first.structure.weight_shape[1], dtype=torch.float64)
    for order in permutations(range(first.structure.length)):
        found = check(linear.layer_of(case, form=Form(order)), x)
    check_tools(found, x)


@pytest.mark.parametrize("case", groups.CONVS)
def test_groups_become_groups(case):
    conv, x = groups.made(case)
    block = (conv.weight.shape[0] // conv.groups, *conv.weight.shape[1:])
    for point in groups.points(block):
        layer = blank_layer(conv, groups.structure_at(point, conv.groups), DEFAULT_FORM)
        found = check(layer.double(), x.double())
    check_tools(found, x.double())


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("chain:6x1x3x1,1x4x1x3@5", [nn.Conv2d, nn.Conv2d]),
        ("chain:6x1x1x1,1x1x3x3,1x4x1x1@3,4", [nn.Conv2d, nn.Conv2d, nn.Conv2d]),
        ("cp:6x1x1x1,1x1x3x1,1x1x1x3,1x4x1x1@5", [nn.Conv2d] * 4),
        ("chain:6x4x3x3", None),
        ("chain:6x1x1,1x4x3@4", [nn.Conv1d, nn.Conv1d]),
        ("chain:6x1x1x1x1,1x4x3x3x3@4", [nn.Conv3d, nn.Conv3d]),
        ("chain:6x1,1x4@3", [nn.Linear, nn.Linear]),
        ("chain:6x4", None),
    ],
)
def test_nothing_stands_between_the_steps_of_whole_channels(text, kinds):
    structure = Structure.parse(text)
    layer = (SeKronLinear if len(structure.weight_shape) == 2 else SeKronConv)(structure)
    parameters = [*layer.weights, layer.bias]
    found = plain(layer)
    assert not reshapes(found)
    modules = [found] if kinds is None else list(found)
    assert kinds is None or [type(module) for module in modules] == kinds
    assert all(module.bias is None for module in modules[:-1])
    found = [*(module.weight for module in modules), modules[-1].bias]
    assert all(a is b for a, b in zip(found, parameters, strict=True))


def test_padding_is_the_step_own_wherever_torch_has_it():
    structure = Structure.parse("chain:6x1x3x1,1x4x1x3@5")
    wide, high = plain(SeKronConv2d(structure, padding=(2, 1), padding_mode="reflect"))
    assert (wide.padding, wide.padding_mode) == ((0, 1), "reflect")
    assert (high.padding, high.padding_mode) == ((2, 0), "reflect")
    uneven = Structure.parse("chain:6x1x4x1,1x4x1x3@5")
    kinds = [type(m) for m in plain(SeKronConv2d(uneven, padding="same", padding_mode="circular"))]
    assert kinds == [nn.Conv2d, nn.CircularPad2d, nn.Conv2d]


def test_uneven_padding_of_a_transposed_layer_is_cropped():
    layer = SeKronConvTranspose(Structure.parse("chain:5x1x4x1,1x7x1x2@6"), padding="same").double()
    check(layer, torch.randn(2, 5, 6, 5, dtype=torch.float64))


def test_more_output_padding_than_stride_needs_the_dilation():
    for text in ("chain:5x1x3x1,1x7x1x1@4", "chain:5x1x1x1,1x7x3x1@4", "chain:5x1x1x1,1x7x1x1@4"):
        structure = Structure.parse(text)
        layer = SeKronConvTranspose(structure, stride=2, dilation=4, output_padding=3, padding=0)
        check(layer.double(), torch.randn(2, 5, 6, 5, dtype=torch.float64))


@pytest.mark.parametrize("text", ["chain:6x1x3x1,1x4x1x3@5", "sekron:2x4x3x1,3x1x1x3@3"])
def test_all_that_is_no_number_comes_along(text):
    layer = SeKronConv2d(Structure.parse(text), padding=1, dtype=torch.bfloat16).eval()
    layer.weights[1].requires_grad_(False)
    layer.register_buffer("mask", torch.ones(2))
    layer.register_forward_hook(lambda *arguments: arguments[-1] + 1)
    x = torch.randn(2, 4, 7, 8, dtype=torch.bfloat16)
    expected = layer(x)
    found = plain(copy.deepcopy(layer))
    torch.testing.assert_close(found(x), expected)
    assert not any(module.training for module in found.modules())
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    assert sum(not p.requires_grad for p in found.parameters()) == 1
    assert torch.equal(found.mask, torch.ones(2))


def test_an_image_whose_size_is_its_number_of_channels_is_not_mistaken():
    layer = SeKronConv2d(Structure.parse("sekron:2x3x3x1,3x2x1x3@3"), padding=1).double()
    for order in permutations(range(2)):
        layer = SeKronConv2d(layer.structure, padding=1, form=Form(order)).double()
        check_one_image(
            layer, check(layer, torch.randn(2, 6, 6, 6).double()), torch.randn(6, 6, 6).double()
        )


@pytest.mark.parametrize(
    ("layer", "norm", "fuse", "shape"),
    [
        (
            SeKronConvTranspose(Structure.parse("chain:5x1x4x1,1x7x1x2@6"), stride=2),
            nn.BatchNorm2d(7),
            partial(fusion.fuse_conv_bn_eval, transpose=True),
            (2, 5, 4, 3),
        ),
        (
            SeKronConv(Structure.parse("chain:6x1x1,1x4x3@4"), bias=False),
            nn.BatchNorm1d(6),
            fusion.fuse_conv_bn_eval,
            (2, 4, 9),
        ),
        (
            SeKronLinear(Structure.parse("chain:7x1,1x5@3")),
            nn.BatchNorm1d(7),
            fusion.fuse_linear_bn_eval,
            (4, 5),
        ),
    ],
    ids=["transposed", "conv-1d", "linear"],
)
def test_torch_fuses_a_batch_norm_into_the_sequence(layer, norm, fuse, shape):
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    plain_layer, norm, x = plain(copy.deepcopy(layer)).eval(), norm.eval(), torch.randn(shape)
    with torch.no_grad():
        expected = norm(layer(x))
        torch.testing.assert_close(fuse(plain_layer, norm)(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norm(plain_layer(x)), expected)  # a copy was fused


def test_nothing_is_drawn():
    layer = SeKronConv2d(Structure.parse("sekron:2x4x3x1,3x1x1x3@3"))
    state = torch.get_rng_state()
    plain(layer)
    assert torch.equal(torch.get_rng_state(), state)


def test_layers_that_may_compute_something_else_are_named():
    class Scaled(SeKronConv2d):
        pass

    structure = Structure.parse("chain:6x1x3x1,1x4x1x3@5")
    assert reason_to_keep(SeKronConv2d(structure)) == ""
    assert "Scaled may not compute" in reason_to_keep(Scaled(structure))
    patched = SeKronConv2d(structure)
    patched.forward = lambda x: x
    assert "its forward was replaced" in reason_to_keep(patched)
    pruned = SeKronConv2d(structure)
    prune.l1_unstructured(pruned.weights, "0", 0.5)
    assert "computed from other parameters" in reason_to_keep(pruned)


@pytest.mark.parametrize(
    ("text", "kind", "shape"),
    [
        ("chain:7x1,1x5@3", SeKronLinear, (2, 3, 5)),
        ("chain:7x1,1x1,1x5@3,2", SeKronLinear, (5,)),
        ("chain:6x1x3x1,1x4x1x3@5", SeKronConv2d, (2, 4, 7, 8)),
        ("cp:6x1x1,1x1x3,1x4x1@5", SeKronConv, (2, 4, 9)),
    ],
)
def test_torch_fx_traces_a_factorized_layer_whose_steps_are_plain(text, kind, shape):
    layer, x = kind(Structure.parse(text)), torch.randn(shape)
    with torch.no_grad():
        assert torch.equal(torch.fx.symbolic_trace(layer)(x), layer(x))
