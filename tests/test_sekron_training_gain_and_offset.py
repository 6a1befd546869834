"""Gain and offset against a least-squares fit of every channel, layer by layer."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sekron import Plan, Structure, repair
from sekron.calibration.divergence import reference_of
from sekron.calibration.layer_inputs import InputsAhead
from sekron.forward.inputs import as_arguments
from sekron.network.counterparts import in_running_order, paired
from sekron.training import gain_and_offset
from sekron.training.gain_and_offset import rescale
from tests.conftest import decayed

LAYERS = {
    "conv": (nn.Conv2d(5, 7, 3), "cp:7x1x1x1,1x5x1x1,1x1x3x3@3"),
    "strided": (nn.Conv2d(5, 7, 3, stride=2, padding=1), "chain:7x1x3x1,1x5x1x3@2"),
    "wide": (nn.Conv2d(5, 7, (3, 2)), "sekron:7x1x1x1,1x5x3x2@2"),
    "transposed": (nn.ConvTranspose2d(5, 7, 3), "sekron:5x1x1x1,1x7x3x3@2"),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), "2*sekron:4x1x1x1,1x3x3x3@2"),
    "split": (nn.Conv2d(5, 8, 3), "sekron:4x1x3x1,2x5x1x3@2"),
    "linear": (nn.Linear(5, 7), "sekron:7x1,1x5@2"),
    "biasless": (nn.Conv2d(5, 7, 3, bias=False), "chain:7x1x3x1,1x5x1x3@2"),
}


def pair(kind):
    torch.manual_seed(0)
    layer, text = copy.deepcopy(LAYERS[kind])
    dense = decayed(nn.Sequential(layer)).eval()
    return dense, Plan({"0": Structure.parse(text)}).apply(dense)


def images(kind):
    n = 6 if kind == "grouped" else 5
    shape = (4, 9, n) if kind == "linear" else (4, n, 9, 8)
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + 0.5
    return [as_arguments(batch) for batch in drawn.split(2)]


def channels(network, batches):
    """What every channel puts out, as rows."""
    with torch.no_grad():
        outputs = [batch.run(network) for batch in batches]
    flat = [y.flatten(0, -2).T if y.dim() == 3 else y.transpose(0, 1).flatten(1) for y in outputs]
    return torch.cat(flat, dim=1).double().numpy()


@pytest.mark.parametrize("kind", [k for k in LAYERS if k not in ("grouped", "split")])
def test_each_channel_gets_its_least_squares_line(kind, monkeypatch):
    monkeypatch.setattr("sekron.training.gain_and_offset.RIDGE", 0.0)
    dense, small = pair(kind)
    batches = images(kind)
    before = channels(small, batches)
    rescale(small, dense, paired(small, dense), batches)
    wanted = []
    for y, own in zip(channels(dense, batches), before, strict=True):
        columns = [own] if kind == "biasless" else [own, np.ones_like(own)]
        matrix = np.stack(columns, axis=1)
        wanted.append(matrix @ np.linalg.lstsq(matrix, y, rcond=None)[0])
    np.testing.assert_allclose(channels(small, batches), wanted, rtol=1e-3, atol=1e-4)


class Largest(TorchDispatchMode):
    """Keeps the most numbers of a tensor in fp64 that any operator has put out."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        y = func(*args, **(kwargs or {}))
        if isinstance(y, torch.Tensor) and y.dtype == torch.float64:
            self.numbers = max(self.numbers, y.numel())
        return y


@pytest.mark.parametrize("piece", [7 * 5, 7 * 60, 2**24], ids=["positions", "images", "all"])
@pytest.mark.parametrize("kind", ["conv", "strided", "transposed", "linear"])
def test_moments_are_summed_by_pieces(kind, piece, monkeypatch):
    monkeypatch.setattr(gain_and_offset, "PIECE", piece)
    dense, small = pair(kind)
    batches = images(kind)
    y, other = channels(dense, batches), channels(small, batches)
    inputs = InputsAhead(dense, ["0"], batches)
    with torch.no_grad(), Largest() as largest:
        found = gain_and_offset._channels("0", inputs, small)
    wanted = y, other, y * other, other**2
    names = "mean", "other_mean", "product", "other_square"
    for name, rows in zip(names, wanted, strict=True):
        np.testing.assert_allclose(getattr(found, name), rows.mean(axis=1), rtol=1e-10)
    assert 7 <= largest.numbers <= piece


@pytest.mark.parametrize("kind", ["grouped", "split"])
def test_where_no_factor_holds_the_channels_only_the_mean_is_met(kind):
    dense, small = pair(kind)
    batches, factors = images(kind), [f.clone() for f in small[0].factors()]
    rescale(small, dense, paired(small, dense), batches)
    assert all(torch.equal(a, b) for a, b in zip(factors, small[0].factors(), strict=True))
    means = [channels(network, batches).mean(axis=1) for network in (dense, small)]
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-5)


def test_a_dead_channel_keeps_its_gain():
    dense, small = pair("conv")
    with torch.no_grad():
        factors = list(small[0].factors())
        factors[0] = factors[0].clone()
        factors[0][:, 2] = 0.0
        small[0].set_factors(factors)
    rescale(small, dense, paired(small, dense), images("conv"))
    assert all(torch.isfinite(p).all() for p in small.parameters())


class Backwards(nn.Module):
    """Runs its second layer first."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 4, 3), nn.Conv2d(5, 6, 3)

    def forward(self, x):
        return self.a(self.b(x).relu())


@pytest.fixture
def networks():
    torch.manual_seed(0)
    dense = decayed(Backwards()).eval()
    texts = {"a": "chain:4x1x3x1,1x6x1x3@4", "b": "chain:6x1x3x1,1x5x1x3@3"}
    return dense, Plan({name: Structure.parse(text) for name, text in texts.items()}).apply(dense)


def test_layers_are_gone_through_as_they_run(networks):
    dense, small = networks
    order = in_running_order(paired(small, dense), dense, images("conv")[0])
    assert list(order) == ["b", "a"]
    alone = copy.deepcopy(small)
    batches = images("conv")
    rescale(small, dense, order, batches)
    rescale(alone, dense, {"b": alone.b}, batches)
    torch.testing.assert_close(small.b.dense_weight(), alone.b.dense_weight())
    last = {"a": alone.a}
    rescale(alone, dense, last, batches)
    torch.testing.assert_close(small.a.dense_weight(), alone.a.dense_weight())


def test_it_brings_a_network_without_batch_norm_nearer_and_repair_goes_on_from_there(networks):
    dense, small = networks
    batches = images("conv")
    reference = reference_of(dense, batches)
    first = reference.divergence(small)
    order = in_running_order(paired(small, dense), dense, batches[0])
    rescaled = copy.deepcopy(small)
    rescale(rescaled, dense, {name: rescaled.get_submodule(name) for name in order}, batches)
    then = reference.divergence(rescaled)
    assert then < 0.95 * first
    outcome = repair(small, dense, batches, progress=False)
    assert outcome.before == pytest.approx(first, rel=1e-5)
    assert outcome.after < then


class Casting(nn.Module):
    """Runs its layers in half precision by itself."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        with torch.autocast("cpu", torch.float16):
            return self.layers(x)


def test_a_layer_gets_half_precision_where_forward_casts_by_itself():
    torch.manual_seed(0)
    layers = decayed(nn.Sequential(nn.Conv2d(5, 6, 1), nn.Conv2d(6, 7, 3))).eval()
    dense, plain = Casting(layers), nn.Sequential(*layers)
    structure = Structure.parse("cp:7x1x1x1,1x6x1x1,1x1x3x3@3")
    small, whole = Plan({"layers.1": structure}).apply(dense), Plan({"1": structure}).apply(plain)
    rescale(small, dense, paired(small, dense), images("conv"))
    rescale(whole, plain, paired(whole, plain), images("conv"))
    torch.testing.assert_close(small.layers[1].bias, whole[1].bias, rtol=0, atol=1e-3)
    assert small.layers[1].bias.dtype == torch.float32
