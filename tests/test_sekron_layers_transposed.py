"""Transposed convolutions against torch's own on the rebuilt kernel, in fp64."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import search
from search import Budget
from sekron import Plan, SeKronConvTranspose, Structure, load, save
from sekron.calibration.metrics import metric_of
from sekron.calibration.moments import moments
from sekron.layers.operations import Rearrangement
from sekron.profiling.count import count_flops
from sekron.structures.geometry import Geometry
from tests.conftest import decayed
from tests.oracles import check_forms, check_gradients

STRUCTURES = {
    "1d-svd": "chain:5x1x6,1x7x1@4",
    "1d-split-kernel": "sekron:5x1x3,1x7x2@6",
    "1d-ring": "ring:3x5x1,2x1x2,1x1x3@2,3,2",
    "2d-dense": "chain:5x7x4x3",
    "2d-spatial": "chain:5x1x4x1,1x7x1x3@6",
    "2d-tucker": "chain:5x1x1x1,1x1x4x3,1x7x1x1@3,4",
    "2d-split-kernel": "sekron:5x1x2x3,1x7x2x1@5",
    "2d-split": "sekron:2x3x1x1,3x2x2x1,1x1x2x3@2,3",
    "2d-chain-split": "chain:2x3x1x1,3x1x2x1,1x2x2x3@4,3",
    "2d-cp": "cp:5x1x1x1,1x1x4x1,1x7x1x3@5",
    "2d-tucker-core": "tucker:5x1x1x1,1x7x1x1,1x1x4x3,1x1x1x1@3,2,4",
    "2d-ring-split": "ring:3x1x2x1,2x5x1x1,1x2x2x1,1x1x1x3@2,3,2,3",
    "3d-svd": "chain:6x1x1x1x1,1x4x3x2x3@5",
    "3d-split": "sekron:2x1x3x1x1,3x2x1x2x1,1x2x1x1x3@2,3",
}
GEOMETRIES = {
    "plain": {},
    "no-bias": {"bias": False, "stride": 2},
    "stride": {"stride": 2, "padding": 1},
    "larger": {"stride": 3, "padding": 1, "output_padding": 2},
    "dilation": {"dilation": 2, "padding": 2},
    "all": {"stride": 2, "padding": 2, "dilation": 3, "output_padding": 1},
}
every_structure = pytest.mark.parametrize("case", STRUCTURES)


def layer_of(case, **arguments):
    torch.manual_seed(0)
    structure = Structure.parse(STRUCTURES[case])
    return SeKronConvTranspose(structure, dtype=torch.float64, **arguments)


def images(layer):
    sizes = {1: (7,), 2: (6, 5), 3: (4, 5, 3)}[layer.n_axes]
    return torch.randn(2, layer.structure.weight_shape[0], *sizes, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@every_structure
def test_every_form_equals_the_dense_convolution(case, geometry):
    make = partial(layer_of, case, **GEOMETRIES[geometry])
    check_forms(make, images(make()))


@pytest.mark.parametrize("geometry", ["plain", "all"])
@every_structure
def test_gradients_equal_those_through_the_rebuilt_kernel(case, geometry):
    layer = layer_of(case, **GEOMETRIES[geometry])
    check_gradients(layer, images(layer))


@pytest.mark.parametrize("geometry", GEOMETRIES)
@every_structure
def test_flops_are_fvcores(case, geometry):
    layer = layer_of(case, **GEOMETRIES[geometry])
    x = images(layer)[:1]
    sizes = tuple(layer(x).shape[2:])
    around = Geometry(tuple(x.shape[2:]), sizes, layer.stride, layer.dilation)
    assert count_flops(layer, (x,))[0] == layer.structure.flops_in(layer.order, around)


def test_the_size_of_the_output_may_be_wanted():
    layer = layer_of("2d-spatial", stride=3, padding=2, output_padding=1)
    x, dense = images(layer), layer.to_conv()
    height, width = dense(x).shape[2:]
    for wanted in ((height + 1, width - 1), (2, 7, height - 1, width)):
        with torch.no_grad():
            torch.testing.assert_close(layer(x, wanted), dense(x, wanted))
    for wanted in ((height + 2, width), (height, width - 2)):
        with pytest.raises(ValueError, match=r"`output_size` must be \(15, 11\) or larger by less"):
            layer(x, wanted)


def test_channels_last_stays():
    layer = layer_of("2d-tucker", stride=2).float()
    x = images(layer).float().contiguous(memory_format=torch.channels_last)
    assert layer(x).is_contiguous(memory_format=torch.channels_last)


def test_a_permutation_is_undone():
    forth = Rearrangement((2, 3, 5), (2, 0, 1))
    x = torch.randn(2, 30, 4)
    assert torch.equal(forth.inverse(forth(x)), x)


def test_the_metric_knows_which_channels_come_first():
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(4, 6, 3, bias=False)
    x = torch.randn(8, 4, 5, 5)
    found = moments(model, [""], [x])[""]
    by_hand = torch.einsum("nchw,ndhw->cd", x.double(), x.double()) / (8 * 25)
    torch.testing.assert_close(found.gradients, by_hand, rtol=1e-5, atol=1e-6)
    metric = metric_of(found)
    assert metric.whiten(model.weight.detach()).shape == model.weight.shape


class Decoder(nn.Module):
    """A convolution down, two transposed ones up, the second with the size it is told."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.up = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1)
        self.depthwise = nn.ConvTranspose2d(12, 12, 3, padding=1, groups=12)
        self.last = nn.ConvTranspose2d(12, 8, 3, stride=2, padding=1)

    def forward(self, x):
        y = self.norm(self.down(F.relu(self.stem(x)))).relu()
        y = self.depthwise(self.up(y)).relu()
        return self.last(y, output_size=(2 * y.shape[2], 2 * y.shape[3] - 1))


def test_a_decoder_is_searched_applied_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    model, x = decayed(Decoder()).eval(), torch.randn(2, 3, 12, 10)
    arguments = {"n_trials": 2, "max_sequence_length": 3, "measure_seconds": 0, "progress": False}
    result = search.run(
        model, x, budget=Budget(flops=0.6), calibration=[torch.randn(6, 3, 12, 10)], **arguments
    )
    status = result.layers().set_index("layer")["reason"]
    assert [name for name, reason in status.items() if not reason] == ["down", "up", "last"]
    assert status["depthwise"].startswith("depthwise convolution, not worth it")
    small = result.best.apply(model)
    counted, _ = count_flops(small, (x[:1],))
    assert counted == result.profile.totals(result.best)["flops"] <= 0.6 * result.profile.flops
    torch.autograd.backward(small(x).square().sum())
    save(small, tmp_path / "small.safetensors")
    again = load(Decoder().eval(), tmp_path / "small.safetensors")
    assert torch.equal(again(x), small(x))
    exact = {
        "up": Structure.parse("chain:16x1x4x1,1x12x1x4@48"),
        "last": Structure.parse("sekron:12x1x1x1,1x8x3x3@12"),
    }
    with torch.no_grad():
        torch.testing.assert_close(Plan(exact).apply(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_padding": 1}, r"must be below the stride or the dilation, got \(1, 1\), stride"),
        ({"output_padding": -1}, "must be below the stride or the dilation"),
        ({"padding_mode": "reflect"}, "has `padding_mode` zeros, got 'reflect'"),
    ],
    ids=str,
)
def test_what_torch_refuses_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_of("2d-spatial", **arguments)


def test_it_stands_for_transposed_convolutions_alone():
    structure = Structure.parse(STRUCTURES["2d-spatial"])
    with pytest.raises(ValueError, match=r"stands for ConvTranspose1d, .*, got Conv2d"):
        SeKronConvTranspose.from_conv(nn.Conv2d(7, 5, (4, 3)), structure)
