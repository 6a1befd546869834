"""Activation SVD against what it is for: the outputs of the layer on its inputs."""

import copy

import pytest
import torch
from torch import nn

from baselines import activation_svd
from baselines.activation_svd import Whitening, activation_candidates, whitenings
from baselines.contenders import factorized_in
from baselines.methods import SVD, truncate
from sekron import Structure, reconstruct
from sekron.profiling.profile import profile
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry
from sekron.structures.templates import channel_svd
from tests.conftest import decayed

LAYERS = {
    "conv": lambda: nn.Conv2d(6, 10, 3, bias=False),
    "strided": lambda: nn.Conv2d(6, 10, (3, 2), stride=(1, 2), padding=1, dilation=(2, 1)),
    "circular": lambda: nn.Conv2d(6, 10, 3, padding=1, padding_mode="circular"),
    "pointwise": lambda: nn.Conv2d(6, 10, 1),
    "grouped": lambda: nn.Conv2d(6, 10, 3, groups=2, padding=1),
    "conv1d": lambda: nn.Conv1d(6, 10, 5, padding=1),
    "linear": lambda: nn.Linear(6, 10),
}
SHAPES = {"conv1d": (30, 6, 13), "linear": (30, 6)}
every_layer = pytest.mark.parametrize("kind", LAYERS)


class Network(nn.Module):
    """One layer on inputs whose channels and places depend on each other."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x)
        return y.movedim(1, -1).flatten(0, -2) if y.dim() > 2 else y


def made(kind, seed=0):
    """A network of one layer, and two batches of inputs with a falling spectrum."""
    torch.manual_seed(seed)
    network = decayed(nn.Sequential(LAYERS[kind]()), power=0.5).eval()
    network = Network(network[0])
    x = torch.randn(SHAPES.get(kind, (30, 6, 9, 7)))
    mixing = torch.linalg.qr(torch.randn(6, 6)).Q * torch.logspace(0, -1.5, 6)
    x = torch.tensordot(x, mixing, ([1], [1])).movedim(-1, 1)
    if x.dim() > 2:
        x = x + x.roll(1, -1)  # neighbours are alike
    return network, list(x.relu().split(20))


def measured_on(network, batches):
    return profile(network, batches[0][:1], include=["layer"])


def outputs(network, weight, batches):
    """What the layer puts out with another weight, without its bias."""
    other = copy.deepcopy(network).double()
    with torch.no_grad():
        other.layer.weight.copy_(weight)
        if other.layer.bias is not None:
            other.layer.bias.zero_()
        return torch.cat([other(x.double()) for x in batches])


def rows_of(network, batches):
    """Every candidate: its structure, its error, and the weight that its factors make."""
    measured = measured_on(network, batches)
    by_layer = whitenings(network, measured, batches)
    table = activation_candidates(network, measured, by_layer)["layer"]
    weight = network.layer.weight.detach().double()
    for row in range(len(table)):
        fitted, factors = factorized_in(by_layer["layer"], truncate, weight, table.structure(row))
        assert tuple(f.shape for f in factors) == fitted.factor_shapes
        yield fitted, table.errors[row], reconstruct(factors, fitted)


@every_layer
def test_no_weight_of_that_rank_changes_the_outputs_less(kind):
    network, batches = made(kind)
    exact = outputs(network, network.layer.weight.detach(), batches)
    groups = getattr(network.layer, "groups", 1)
    ranks = []
    for structure, error, weight in rows_of(network, batches):
        (rank,) = structure.ranks
        ranks.append(rank)
        changed = float((outputs(network, weight, batches) - exact).norm() / exact.norm())
        assert changed == pytest.approx(error, rel=1e-3, abs=1e-5)
        # Eckart-Young, for the outputs themselves: no matrix of that rank is nearer to them.
        squares = sum(
            float(torch.linalg.svdvals(part)[rank:].square().sum())
            for part in exact.chunk(groups, dim=1)
        )
        assert error == pytest.approx(squares**0.5 / float(exact.norm()), rel=1e-3, abs=1e-5)
    assert len(ranks) >= 2


@every_layer
def test_a_plain_channel_svd_changes_them_more(kind):
    network, batches = made(kind)
    exact = outputs(network, network.layer.weight.detach(), batches)
    plain_weight = network.layer.weight.detach().double()
    gains = []
    for structure, error, _ in rows_of(network, batches):
        plain = reconstruct(truncate(plain_weight, structure)[1], structure)
        gains.append(
            float((outputs(network, plain, batches) - exact).norm() / exact.norm()) / error
        )
    assert min(gains) >= 1.0 - 1e-3
    assert max(gains) > 1.05


def full_rank(weight, groups=1):
    shape = (weight.shape[0] // groups, *weight.shape[1:])
    rank = min(shape[0], weight[0].numel())
    return Structure(*channel_svd(shape), (rank,), groups)


@every_layer
def test_at_full_rank_the_weight_is_exact(kind):
    network, batches = made(kind)
    measured = measured_on(network, batches)
    whitening = whitenings(network, measured, batches)["layer"]
    weight = network.layer.weight.detach().double()
    structure = full_rank(weight, measured.searched[0].groups)
    factors = factorized_in(whitening, truncate, weight, structure)[1]
    torch.testing.assert_close(reconstruct(factors, structure), weight, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_directions_that_no_input_has_are_not_kept(groups):
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(groups, 12, 12, dtype=torch.float64)).Q[..., :7]
    moment = (basis @ basis.mT).squeeze(0)
    weight = torch.randn(10, 3, 2, 2, dtype=torch.float64)
    structure = full_rank(weight, groups)
    factors = factorized_in(Whitening.of(moment), truncate, weight, structure)[1]
    rebuilt = reconstruct(factors, structure)
    expected = weight.reshape(groups, -1, 12) @ (basis @ basis.mT)
    torch.testing.assert_close(rebuilt, expected.reshape(weight.shape))


@pytest.mark.parametrize("size", [3, 12], ids=["channels", "patches"])
def test_a_layer_that_was_never_given_anything_is_decomposed_as_it_is(size):
    weight = torch.randn(10, 3, 2, 2, dtype=torch.float64)
    whitening = Whitening.of(torch.zeros(size, size))
    torch.testing.assert_close(whitening.whiten(weight).norm(), weight.norm())
    structure = full_rank(weight)
    factors = factorized_in(whitening, truncate, weight, structure)[1]
    torch.testing.assert_close(reconstruct(factors, structure), weight)


def test_of_a_transposed_convolution_the_channels_are_whitened():
    torch.manual_seed(0)
    network = Network(decayed(nn.ConvTranspose2d(6, 8, 2, groups=2)))
    batches = list((torch.randn(20, 6, 5, 4) * torch.arange(1, 7)[:, None, None]).split(10))
    pixels = torch.cat(batches).movedim(1, -1).reshape(-1, 2, 3).double()
    exact = network.layer.weight.detach().double().reshape(2, 3, -1)
    size = torch.einsum("ngi,gio->ngo", pixels, exact).norm()
    errors = []
    for _, error, weight in rows_of(network, batches):
        changed = torch.einsum("ngi,gio->ngo", pixels, weight.reshape(2, 3, -1) - exact)
        assert float(changed.norm() / size) == pytest.approx(error, rel=1e-3)
        errors.append(error)
    assert min(errors) > 0.0


@pytest.mark.parametrize(("widest", "size"), [(54, 54), (53, 6), (5, 6)])
def test_of_patches_that_are_too_large_the_channels_are_known(monkeypatch, widest, size):
    monkeypatch.setattr(activation_svd, "WIDEST", widest)
    monkeypatch.setattr("sekron.calibration.moments.WIDEST", widest)
    network, batches = made("conv")
    whitening = whitenings(network, measured_on(network, batches), batches)["layer"]
    assert whitening.scales.shape == (1, size)
    assert (whitening.directions is None) == (widest < 6)  # of many channels the squares alone
    exact = network.layer.weight.detach().double()
    rebuilt = factorized_in(whitening, truncate, exact, full_rank(exact))[1]
    torch.testing.assert_close(reconstruct(rebuilt, full_rank(exact)), exact, rtol=1e-6, atol=1e-6)


def test_white_inputs_make_it_the_plain_channel_svd(small_weight):
    weight = small_weight.double()
    geometry = (Geometry.of(tuple(weight.shape), (9, 7)),)
    (plain,) = SVD.curves(Spectra(weight, geometry), float("inf"))
    whitened = Whitening.of(3.0 * torch.eye(36)).whiten(weight)
    (curve,) = SVD.curves(Spectra(whitened, geometry), float("inf"))
    assert curve.errors == pytest.approx(plain.errors)
    assert (curve.flops.tolist(), curve.params.tolist()) == (
        plain.flops.tolist(),
        plain.params.tolist(),
    )
