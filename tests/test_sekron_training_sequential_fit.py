"""Targets of layers that get another input: least squares by hand, for every kind of layer."""

import copy

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure, refit
from sekron.calibration import patches
from sekron.calibration.layer_inputs import InputsAhead
from sekron.calibration.paired_moments import PairedMoments, paired_moments
from sekron.forward.inputs import as_arguments
from sekron.training import sequential_fit
from sekron.training.sequential_fit import DAMPING, batch_statistics, target_of
from tests.conftest import decayed

N = 301


def rows_of_two(n, seed=0):
    """Inputs of a layer in two networks: alike, and not of mean zero."""
    torch.manual_seed(seed)
    x = torch.randn(N, n).double() @ torch.randn(n, n).double() + 0.7
    return x, 0.8 * x + 0.3 * torch.randn(N, n).double() - 0.2


def by_hand(weight, x, other):
    """Ridge regression of the layer's output on its other input, towards its own weight."""
    x, other = x - x.mean(0), other - other.mean(0)
    ridge = (DAMPING * other.var(0, correction=0).mean() * N).sqrt()
    rows = torch.cat([other, ridge * torch.eye(other.shape[1]).double()])
    wanted = torch.cat([x @ weight.mT, ridge * weight.mT])
    return torch.linalg.lstsq(rows, wanted).solution.mT


class Two(nn.Module):
    """Gives a layer one of two inputs, as two networks would."""

    def __init__(self, layer, which):
        super().__init__()
        self.layer, self.which = layer, which

    def forward(self, x):
        return self.layer(x[:, self.which])


def pair_of(layer):
    return Two(layer, 0), Two(copy.deepcopy(layer), 1)


def paired_of(name, dense, compressed, batches, largest_patch):
    return paired_moments(name, InputsAhead(dense, [name], batches), compressed, largest_patch)


def test_the_target_is_the_least_squares_solution():
    x, other = rows_of_two(7)
    linear = nn.Linear(7, 5).double()
    batches = torch.stack([x, other], dim=1).split(43)
    inputs = [as_arguments(batch.float()) for batch in batches]
    paired = paired_of("layer", *pair_of(linear.float()), inputs, 0)
    weight = linear.weight.detach().double()
    torch.testing.assert_close(
        target_of(weight, paired), by_hand(weight, x, other), rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(paired.dense_mean, x.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(paired.compressed_mean, other.mean(0), rtol=1e-4, atol=1e-5)


def test_paired_moments_are_in_single_precision_also_within_autocast():
    networks, x = pair_of(nn.Linear(7, 5)), as_arguments(300.0 * torch.randn(11, 2, 7))
    whole = paired_of("layer", *networks, [x], 0)
    with torch.autocast("cpu", torch.float16):
        found = paired_of("layer", *networks, [x], 0)
    assert torch.equal(found.cross, whole.cross)
    assert torch.equal(found.compressed, whole.compressed)


def test_equal_inputs_leave_the_weight_as_it_is():
    x, _ = rows_of_two(6)
    centred = x - x.mean(0)
    square = centred.mT @ centred / N
    weight = torch.randn(4, 6).double()
    same = PairedMoments(square, square, x.mean(0), x.mean(0))
    torch.testing.assert_close(target_of(weight, same), weight)
    dead = PairedMoments(0 * square, 0 * square, x.mean(0), x.mean(0))
    torch.testing.assert_close(target_of(weight, dead), weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_kernel_is_a_matrix_of_its_patches(groups):
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, (3, 2), groups=groups, padding=(1, 0), stride=(1, 2), bias=False)
    x = torch.randn(20, 2, 4, 5, 8)
    paired = paired_of("layer", *pair_of(conv), [as_arguments(x)], 10**4)
    target = target_of(conv.weight, paired)
    # What a layer puts out for patches: its output, one group after another.
    identity = nn.Conv2d(4, 4 * 6, (3, 2), groups=4, padding=(1, 0), stride=(1, 2), bias=False)
    identity.weight.data.copy_(torch.eye(6).reshape(6, 1, 3, 2).repeat(4, 1, 1, 1))
    seen = [identity(x[:, k]).movedim(1, -1).flatten(0, 2).double() for k in (0, 1)]
    for g, (own, solved) in enumerate(
        zip(conv.weight.chunk(groups), target.chunk(groups), strict=True)
    ):
        n = 24 // groups
        rows = [p[:, g * n : (g + 1) * n] for p in seen]
        centred = [r - r.mean(0) for r in rows]
        ridge = DAMPING * centred[1].square().mean(0).mean()
        cross, square = (c.mT @ centred[1] / len(rows[0]) for c in centred)
        eye = ridge * torch.eye(n).double()
        wanted = own.detach().double().flatten(1) @ (cross + eye) @ torch.linalg.inv(square + eye)
        torch.testing.assert_close(solved.double().flatten(1), wanted, rtol=1e-3, atol=1e-4)


def test_networks_run_no_further_than_the_layer():
    calls = []
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    network[2].register_forward_pre_hook(lambda *_: calls.append(1))
    batches = [as_arguments(x) for x in torch.randn(30, 3).split(10)]
    paired_of("1", network, copy.deepcopy(network), batches, 0)
    assert len(calls) == 1  # in the dense network, to see how often the layer is called


def test_both_networks_are_seen_at_the_same_positions_of_as_many_batches_as_are_needed(monkeypatch):
    monkeypatch.setattr(patches, "ENOUGH", 300)
    monkeypatch.setattr(patches, "FEWEST_PER_NUMBER", 1)
    network, seen = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)), []
    network[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x = torch.randn(80, 3, 5, 5)
    batches = [as_arguments(part) for part in x.split(2)]  # 50 positions each
    paired = paired_of("0", network, copy.deepcopy(network), batches, 27)
    assert len(seen) == 2 * 6
    torch.testing.assert_close(paired.cross, paired.compressed, rtol=0, atol=0)
    whole = patches.patches_of(network[0], x).rows()
    torch.testing.assert_close(
        paired.compressed, torch.cat(list(whole)).double().T.cov(correction=0), rtol=0, atol=0.4
    )


def test_batch_norm_sees_the_batch_and_stays_as_it_was():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    before, x = copy.deepcopy(network.state_dict()), torch.randn(50, 3) + 2.0
    with torch.no_grad(), batch_statistics(network):
        y = network(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not network[1].training


class Kinds(nn.Module):
    """One layer of every kind, one of them called twice, with a shortcut."""

    def __init__(self):
        super().__init__()
        self.grouped = nn.Conv2d(6, 8, 3, padding=1, groups=2)
        self.twice = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.grouped(x).relu()
        x = x + self.twice(self.twice(x).relu())
        return self.head(self.up(x).relu().mean((2, 3)))


PLAN = {
    "grouped": "2*sekron:4x1x1x1,1x3x3x3@2",
    "twice": "chain:8x1x3x1,1x8x1x3@5",
    "up": "sekron:8x1x1x1,1x6x4x4@4",
    "head": "sekron:5x1,1x6@3",
}


@pytest.mark.parametrize("names", [[name] for name in PLAN] + [list(PLAN)], ids="-".join)
def test_every_kind_of_layer_is_fitted(names):
    torch.manual_seed(0)
    dense = decayed(Kinds()).eval()
    batches = list((torch.randn(24, 6, 7, 6) + 0.2).split(12))
    small = Plan({name: Structure.parse(PLAN[name]) for name in names}).apply(dense)
    gain = refit(small, dense, batches, progress=False)
    # One weight for two calls with unlike inputs may be as good as it gets.
    assert gain <= 1.0 if names == ["twice"] else gain < 0.95


def test_means_are_taken_up_by_the_bias():
    """What is lost of a mean that every image has is not lost at all."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(9, 8)).eval()
    batches = [torch.randn(200, 9) + 3.0]
    small = Plan({"0": Structure.parse("sekron:8x1,1x9@2")}).apply(dense)
    refit(small, dense, batches, output="values", progress=False)
    with torch.no_grad():
        ours, theirs = (n(batches[0]).mean(0) for n in (small, dense))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spoil",
    [lambda x: x[:1], lambda x: 0.0 * x, lambda x: x.expand(len(x), -1) * 0 + x[:1]],
    ids=["one-image", "zeros", "all-alike"],
)
def test_little_to_learn_from_makes_nothing_worse(spoil):
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6)).eval()
    small = Plan({"0": Structure.parse("sekron:8x1,1x9@2")}).apply(dense)
    batches = [spoil(torch.randn(40, 9) + 3.0)]
    assert sekron.refit(small, dense, batches, progress=False) <= 1.0
    assert all(torch.isfinite(p).all() for p in small.parameters())


def test_means_are_taken_up_by_the_bias_of_a_transposed_layer(monkeypatch):
    """One position gets as many places of the kernel as there are for each step of its strides."""
    torch.manual_seed(0)
    dense = nn.Sequential(nn.ConvTranspose2d(4, 3, 2, stride=2)).eval()
    batches = [torch.randn(64, 4, 5, 5) + 3.0]
    small = Plan({"0": Structure.parse("sekron:4x1x1x1,1x3x2x2@1")}).apply(dense)
    honest, means = sequential_fit._fit, []

    def fit(*arguments):
        honest(*arguments)
        means.extend(network(batches[0]).mean((0, 2, 3)) for network in (small, dense))

    monkeypatch.setattr(sequential_fit, "_fit", fit)
    refit(small, dense, batches, output="values", progress=False)
    torch.testing.assert_close(*means, rtol=1e-3, atol=1e-3)
