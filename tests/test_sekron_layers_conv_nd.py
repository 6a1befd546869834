"""One and three spatial axes: the layer is the same, and torch's own convolution the oracle."""

from functools import partial

import pytest
import torch
from torch import nn

import search
from search import Budget
from sekron import Plan, SeKronConv, Structure, load, save
from sekron.calibration.moments import moments
from sekron.layers.operations import Form
from sekron.profiling.count import count_flops
from sekron.structures.geometry import Geometry
from tests.conftest import decayed
from tests.oracles import check_forms, check_gradients

STRUCTURES = {
    "1d-dense": "chain:7x5x6",
    "1d-svd": "chain:7x1x6,1x5x1@4",
    "1d-split-kernel": "sekron:7x1x3,1x5x2@6",
    "1d-split-channels": "sekron:2x1x3,3x4x1,1x1x2@2,2",
    "1d-ring": "ring:3x5x1,2x1x2,1x1x3@2,3,2",
    "1d-cp": "cp:6x1x1,1x1x5,1x4x1@3",
    "1d-tucker": "tucker:6x1x1,1x4x1,1x1x5@3,2",
    "3d-svd": "chain:6x1x1x1x1,1x4x3x2x3@5",
    "3d-spatial": "chain:6x1x3x1x1,1x1x1x2x1,1x4x1x1x3@4,3",
    "3d-split": "sekron:2x1x3x1x1,3x2x1x2x1,1x2x1x1x3@2,3",
    "3d-cp": "cp:6x1x1x1x1,1x1x3x2x1,1x4x1x1x3@5",
    "3d-ring": "ring:6x1x1x1x1,1x4x3x1x1,1x1x1x2x3@2,3,2",
}
GEOMETRIES = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "same": {"padding": "same", "bias": False},
    "all": {"stride": 2, "padding": 2, "dilation": 2},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "circular": {"padding": 1, "padding_mode": "circular", "stride": 3},
}
# torch's own convolution says that it pads unevenly; the factorized layer does so by itself.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def layer_of(case, **arguments):
    torch.manual_seed(0)
    return SeKronConv(Structure.parse(STRUCTURES[case]), dtype=torch.float64, **arguments)


def images(layer):
    sizes = {1: (23,), 3: (9, 8, 7)}[layer.n_axes]
    return torch.randn(2, layer.structure.weight_shape[1], *sizes, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@every_structure
def test_every_form_equals_the_dense_convolution(case, geometry):
    make = partial(layer_of, case, **GEOMETRIES[geometry])
    check_forms(make, images(make()))


@every_structure
def test_gradients_equal_those_through_the_rebuilt_kernel(case):
    layer = layer_of(case, stride=2, padding=1)
    check_gradients(layer, images(layer))


@pytest.mark.parametrize("geometry", ["plain", "stride", "all"])
@every_structure
def test_flops_are_fvcores(case, geometry):
    layer = layer_of(case, **GEOMETRIES[geometry])
    x = images(layer)[:1]
    around = Geometry(tuple(layer(x).shape[2:]), tuple(x.shape[2:]), layer.stride, layer.dilation)
    assert count_flops(layer, (x,))[0] == layer.structure.flops_in(layer.order, around)


def test_volumes_with_channels_last_keep_their_layout():
    # As matrix products; torch's own convolution of extent 1 gives a volume another layout.
    conv = nn.Conv3d(4, 6, 3, padding=1).to(memory_format=torch.channels_last_3d)
    structure = Structure.parse("chain:6x1x1x1x1,1x1x3x3x3,1x4x1x1x1@5,3")
    layer = SeKronConv.from_conv(conv, structure, Form(matmul=True))
    x = torch.randn(2, 4, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(y, layer.to_conv()(x))


def test_a_convolution_has_one_to_three_axes():
    for text in ("chain:3x1,1x2@1", "chain:3x1x1x1x1x1,1x2x1x1x1x1@1"):
        with pytest.raises(ValueError, match="a convolution has a weight of 3 to 5 modes"):
            SeKronConv(Structure.parse(text))


@pytest.mark.parametrize("options", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_patches_are_what_the_kernel_sees(kind, options):
    torch.manual_seed(0)
    layer = kind(3, 5, 3, **{**options, "bias": False}).double()
    sizes = (19,) if kind is nn.Conv1d else (8, 7, 9)
    x = torch.randn(3, 3, *sizes, dtype=torch.float64)
    found = moments(layer, [""], [x], largest_patch=81)[""].inputs
    y, kernel = layer(x).detach(), layer.weight.detach().flatten(1)
    gram = torch.einsum("nop,nqp->oq", y.flatten(2), y.flatten(2)) / y[:, 0].numel()
    torch.testing.assert_close(kernel @ found @ kernel.T, gram, rtol=1e-5, atol=1e-5)


def audio():
    return nn.Sequential(
        nn.Conv1d(2, 16, 9, stride=2, padding=4),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 24, 5, padding="same"),
        nn.ReLU(),
        nn.Conv1d(24, 24, 3, dilation=2),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def video():
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv3d(8, 12, (3, 1, 1), padding=(1, 0, 0)),
        nn.Conv3d(12, 12, (1, 3, 3), stride=(1, 2, 2)),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


@pytest.mark.parametrize(
    ("build", "shape"), [(audio, (2, 2, 64)), (video, (2, 3, 6, 10, 9))], ids=["audio", "video"]
)
def test_networks_are_searched_applied_saved_and_loaded(build, shape, tmp_path):
    torch.manual_seed(0)
    model, x = decayed(build()).eval(), torch.randn(shape)
    arguments = {"n_trials": 2, "max_sequence_length": 3, "measure_seconds": 0, "progress": False}
    result = search.run(
        model, x, budget=Budget(flops=0.6), calibration=[torch.randn(shape)], **arguments
    )
    assert len(result.profile.searched) == 2
    small = result.best.apply(model)
    counted, unsupported = count_flops(small, (x[:1],))
    assert counted == result.profile.totals(result.best)["flops"] <= 0.6 * result.profile.flops
    assert set(unsupported) <= set(result.profile.unsupported)
    torch.autograd.backward(small(x).square().sum())
    assert all(p.grad is not None for p in small.parameters())
    save(small, tmp_path / "small.safetensors")
    again = load(build().eval(), tmp_path / "small.safetensors")
    assert torch.equal(again(x), small(x))
    exact = {
        layer.name: Structure(
            "chain",
            ((layer.weight_shape[0], *[1] * (len(layer.weight_shape) - 1)),
             (1, *layer.weight_shape[1:])),
            (min(layer.weight_shape[0], layer.params // layer.weight_shape[0]),),
        )
        for layer in result.profile.searched
    }  # fmt: skip
    with torch.no_grad():
        torch.testing.assert_close(Plan(exact).apply(model)(x), model(x), rtol=1e-4, atol=1e-5)
