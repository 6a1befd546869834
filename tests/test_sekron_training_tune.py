"""Tuning fits a compressed network to the dense one, and never leaves it worse."""

import copy

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure, tune
from sekron.calibration.divergence import reference_of
from sekron.calibration.output_kind import KINDS
from sekron.forward.inputs import as_arguments
from sekron.training.tune import _loss, _split, rate_for, with_holders
from tests.conftest import decayed

QUIET = {"progress": False}
STRUCTURES = {"0": "cp:8x1x1x1,1x3x1x1,1x1x3x3@4", "3": "chain:12x1x3x1,1x8x1x3@6"}


@pytest.fixture
def dense(batches):
    torch.manual_seed(0)
    network = decayed(
        nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.Conv2d(8, 12, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(12, 5),
        )
    ).eval()
    sekron.recalibrate(network, batches)  # as training leaves it
    return network


@pytest.fixture
def small(dense):
    return Plan({name: Structure.parse(text) for name, text in STRUCTURES.items()}).apply(dense)


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [torch.randn(8, 3, 9, 9) for _ in range(4)]


def channels_last(batches):
    """As `tune` shows them to the networks; another order in memory rounds otherwise."""
    return [x.contiguous(memory_format=torch.channels_last) for x in batches]


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def divergence(small, dense, batches):
    """Relative squared error of the last convolution's output, and of the logits."""
    with torch.no_grad():
        pairs = [(small[:4](x), dense[:4](x)) for x in batches]
        pairs += [(small(x), dense(x)) for x in batches]
    return sum(float((a - b).square().sum() / b.square().sum()) for a, b in pairs)


def test_the_outputs_come_nearer_to_the_dense_ones(small, dense, batches):
    before = divergence(small, dense, batches)
    ratio = tune(small, dense, batches, steps=60, **QUIET)
    assert ratio < 0.9
    assert divergence(small, dense, batches) < 0.9 * before


def loss(small, dense, names, x, kind="logits"):
    return float(_loss(small, dense, names, KINDS[kind], as_arguments(x)).detach())


def test_what_is_returned_is_the_ratio_of_the_divergences_on_what_is_held_out(
    small, dense, batches
):
    held_out = reference_of(dense, map(as_arguments, channels_last(x[7:] for x in batches)))
    before = held_out.divergence(small)
    ratio = tune(small, dense, batches, steps=20, **QUIET)
    assert ratio == pytest.approx(held_out.divergence(small) / before, rel=1e-5)


@pytest.mark.parametrize(
    ("sizes", "fitted", "judging"),
    [
        ([8, 17], [7, 15], [1, 2]),
        ([8, 3], [7, 3], [1]),
        ([7, 3], [7, 3], [7, 3]),
        (9 * [4], 8 * [4], [4]),
        ([*7 * [4], 8], [*7 * [4], 7], [1]),
    ],
    ids=str,
)
def test_one_image_in_eight_judges(sizes, fitted, judging):
    images = [as_arguments(x) for x in torch.arange(sum(sizes)).split(sizes)]
    parts = _split(images)
    assert [[len(x) for x in part] for part in parts] == [fitted, judging]
    assert {int(i) for part in parts for x in part for i in x.tensors[0]} == set(range(sum(sizes)))


def test_few_steps_are_small_ones():
    assert [rate_for(steps) for steps in (3, 75, 300, 600)] == pytest.approx(
        [4e-5, 1e-3, 4e-3, 4e-3]
    )


@pytest.mark.parametrize(
    ("rate", "cut", "n_cuts"), [(0.04, 0.25, 2), (1e28, 2.5e-31, 1)], ids=["worse", "not finite"]
)
def test_a_learning_rate_that_makes_it_much_worse_is_cut_and_the_fit_begins_anew(
    small, dense, batches, monkeypatch, rate, cut, n_cuts
):
    sekron.recalibrate(small, batches)
    other = copy.deepcopy(small)
    for name, value in (("LEARNING_RATE", rate), ("MANY_STEPS", 1), ("CUT", cut)):
        monkeypatch.setattr(f"sekron.training.tune.{name}", value)
    ratio = tune(small, dense, batches, steps=40, **QUIET)
    cut_rate = rate * cut**n_cuts
    assert ratio == tune(other, dense, batches, steps=40, learning_rate=cut_rate, **QUIET) < 1.0
    assert same(state(small), state(other))


def test_the_loss_is_the_sum_of_relative_errors_and_the_divergence(small, dense, batches):
    x = batches[0]
    with torch.no_grad():
        layers = sum(
            float((small[:k](x) - dense[:k](x)).square().sum() / dense[:k](x).square().sum())
            for k in (1, 4)
        )
        own, theirs = (n(x).div(2.0).softmax(dim=1) for n in (small, dense))
        wanted = layers + 4.0 * float((theirs * (theirs / own).log()).sum()) / len(x)
        values = layers + float((small(x) - dense(x)).square().sum() / dense(x).square().sum())
    assert loss(small, dense, ["0", "3"], x) == pytest.approx(wanted, rel=1e-4)
    assert loss(small, dense, ["0", "3"], x, "values") == pytest.approx(values, rel=1e-4)


class Block(nn.Module):
    """Adds to its input, and puts out more than one tensor."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        y = x + self.layers(x)
        return {"sum": y, "rest": (y.mean(dim=(1, 2, 3)), "a word")}


class Blocks(nn.Module):
    """Changes in place what its blocks have put out."""

    def __init__(self, *blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)  # is never called, and puts out nothing

    def forward(self, x):
        for block in self.blocks:
            x = block(x)["sum"].mul_(2.0)
        return x


def test_modules_that_hold_layers_are_fitted_too(monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)) for _ in range(2)]
    dense = Blocks(*[Block(pair) for pair in layers]).eval()
    names = [f"blocks.{i}.layers.0" for i in range(2)]
    holders = ["blocks", *[f"blocks.{i}{end}" for i in range(2) for end in ("", ".layers")]]
    assert with_holders(names) == [*names, *holders]
    structure = Structure.parse("sekron:3x1x1x1,1x3x3x3@1")
    small = Plan(dict.fromkeys(names, structure)).apply(dense)
    x, wanted = torch.randn(5, 3, 7, 7), 0.0
    put_out = {}
    with torch.no_grad():
        for network in (small, dense):
            outputs, y = [], x
            for i in range(2):
                inner = network.blocks[i].layers(y)
                total = y + inner
                outputs += [network.blocks[i].layers[0](y), inner, total, total.mean((1, 2, 3))]
                y = 2.0 * total
            put_out[network] = [*outputs, y]
    for a, b in zip(put_out[small], put_out[dense], strict=True):
        wanted += float((a - b).square().sum() / b.square().sum())
    assert loss(small, dense, with_holders(names), x, "values") == pytest.approx(wanted, rel=1e-4)
    seen = []
    monkeypatch.setattr("sekron.training.tune._loss", lambda *a: seen.append(a[2]) or _loss(*a))
    assert tune(small, dense, [x, x], steps=1, **QUIET) <= 1.0
    assert seen == [with_holders(names)]


def test_a_fit_that_got_worse_is_taken_back(small, dense, batches, monkeypatch):
    sekron.recalibrate(small, channels_last(batches))
    before = state(small)

    def spoil(model, *_):
        with torch.no_grad():
            model[0].weights[0].add_(1.0)

    monkeypatch.setattr("sekron.training.tune._descend", spoil)
    assert tune(small, dense, batches, steps=1, **QUIET) == 1.0
    assert same(state(small), before)


def test_a_loss_that_is_not_finite_ends_the_fit_and_the_network_is_as_it_was(small, dense, batches):
    before = state(small)
    with pytest.raises(ValueError, match=r"the loss must be finite, got nan at step 2;"):
        tune(small, dense, batches, steps=5, learning_rate=1e30, **QUIET)
    assert same(state(small), before)


def test_flags_hooks_and_the_dense_network_are_as_they_were(small, dense, batches):
    dense.train()
    dense[1].eval()
    small[3].bias.requires_grad_(False)
    flags = [m.training for m in [*dense.modules(), *small.modules()]]
    wanted = {name: p.requires_grad for name, p in small.named_parameters()}
    bias, before = small[3].bias.clone(), state(dense)
    tune(small, dense, batches, steps=3, **QUIET)
    assert [m.training for m in [*dense.modules(), *small.modules()]] == flags
    assert {name: p.requires_grad for name, p in small.named_parameters()} == wanted
    assert torch.equal(small[3].bias, bias)
    assert same(state(dense), before)
    assert all(p.grad is None for p in dense.parameters())
    assert not any(m._forward_hooks for m in [*dense.modules(), *small.modules()])


def test_what_works_in_place_after_a_layer_does_not_change_its_target(small, dense, batches):
    names, x = ["0"], batches[0]
    plain = nn.Sequential(dense[0], nn.ReLU(inplace=True))
    own = nn.Sequential(small[0], nn.ReLU(inplace=True))
    with torch.no_grad():
        a, b = small[0](x), dense[0](x)
        after = (a.relu() - b.relu()).square().sum() / b.relu().square().sum()
        wanted = float((a - b).square().sum() / b.square().sum() + after)
    assert loss(own, plain, names, x, "values") == pytest.approx(wanted, rel=1e-5)


def test_a_network_of_another_kind_leaves_batch_norm_as_it_was(small, dense, batches):
    before = state(small)
    other = nn.Sequential(*[*dense[:7], nn.Linear(12, 4)])
    for network, message in (
        (nn.Sequential(nn.Flatten()), r"layer '0' has a weight .* and no weight in the dense one"),
        (nn.Sequential(nn.Conv2d(3, 6, 3)), r"and a weight \(6, 3, 3, 3\) in the dense one"),
        (other, r"must have the shape of the network's, \(\d+, 5\), got \(\d+, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tune(small, network, batches, steps=1, **QUIET)
        assert same(state(small), before)


def test_a_network_that_fits_is_not_made_worse(dense, batches):
    few = [x[:3] for x in batches[:2]]
    small = Plan({"3": Structure.parse("sekron:12x1x1x1,1x8x3x3@12")}).apply(dense)
    before = state(small)
    assert tune(small, dense, few, steps=2, **QUIET) == 1.0
    assert same(state(small), before)


def test_dropout_is_off_and_tuples_are_inputs_with_labels(small, dense, batches):
    other = copy.deepcopy(small)
    torch.manual_seed(2)
    tune(small, dense, batches, steps=5, **QUIET)
    torch.manual_seed(3)
    tune(other, dense, [(x, torch.zeros(len(x))) for x in batches], steps=5, **QUIET)
    assert same(state(small), state(other))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive, got 0.0"),
        ({"batches": []}, "must hold at least one batch"),
        ({"batches": [torch.full((2, 3, 9, 9), float("nan"))]}, "`batches` must be finite"),
        ({"batches": [torch.zeros(2, 4, 9, 9)]}, r"must run on the batches, but on \(2, 4, 9, 9\)"),
    ],
)
def test_bad_arguments_are_refused(small, dense, batches, arguments, message):
    given = {"batches": batches, **arguments}
    with pytest.raises(ValueError, match=message):
        tune(small, dense, given.pop("batches"), **given, **QUIET)


def test_a_frozen_network_has_nothing_to_tune(small, dense, batches):
    with pytest.raises(ValueError, match="must have parameters that want gradients"):
        tune(small.requires_grad_(False), dense, batches, **QUIET)


def test_a_dense_network_has_nothing_to_tune(dense, batches):
    with pytest.raises(ValueError, match="must have factorized layers to tune"):
        tune(copy.deepcopy(dense), dense, batches, **QUIET)
