"""One call that repairs: in the right order, never for the worse, with the outcome told."""

import copy
import warnings

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure, refit, repair
from sekron.calibration.divergence import reference_of
from sekron.forward.evaluation import inputs_of
from sekron.training.gain_and_offset import rescale
from tests.conftest import decayed


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [(torch.randn(20, 4, 9, 8) + 0.3).cumsum(1) for _ in range(2)]


@pytest.fixture
def dense(batches):
    torch.manual_seed(0)
    network = decayed(
        nn.Sequential(
            nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(12, 6),
        )
    ).eval()  # fmt: skip
    sekron.recalibrate(network, batches)
    return network


@pytest.fixture
def small(dense):
    texts = {"0": "cp:8x1x1x1,1x4x1x1,1x1x3x3@3", "3": "sekron:12x1x1x1,1x8x3x3@4"}
    return Plan({name: Structure.parse(text) for name, text in texts.items()}).apply(dense)


class Written(nn.Module):
    """Two layers in a forward of its own, whose compiled code is kept whatever hooks come."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 8, 3), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.first(x).relu().mean(dim=(2, 3)))


FITS = {
    "repair": repair,
    "refit": sekron.refit,
    "tune": lambda *of, progress: sekron.tune(*of, steps=1, progress=progress),
}


def divergence(model, dense, batches):
    """Kullback-Leibler, mean over the images."""
    with torch.no_grad():
        own, theirs = (torch.cat([n(x) for x in batches]).log_softmax(1) for n in (model, dense))
        return float((theirs.exp() * (theirs - own)).sum() / len(own))


def test_the_outcome_is_the_divergence_before_and_after(small, dense, batches, capsys):
    before = divergence(small, dense, batches)
    outcome = repair(small, dense, [(x, None) for x in batches], progress=False)
    assert outcome.before == pytest.approx(before, rel=1e-3)
    assert outcome.after == pytest.approx(divergence(small, dense, batches), rel=1e-3)
    assert outcome.after < 0.5 * outcome.before
    assert capsys.readouterr().err == ""


def test_the_outcome_is_told(small, dense, batches, capsys):
    outcome = repair(small, dense, batches)
    assert f"{outcome.before:.4g} before, {outcome.after:.4g} after\n" in capsys.readouterr().err


def test_it_does_more_than_batch_norm_alone(small, dense, batches):
    other = copy.deepcopy(small)
    sekron.recalibrate(other, batches)
    outcome = repair(small, dense, batches, progress=False)
    assert outcome.after < 0.8 * divergence(other, dense, batches)


def test_what_is_refused_changes_nothing(small, dense, batches):
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match="must have factorized layers to refit"):
        repair(dense, dense, batches, progress=False)
    with pytest.raises(ValueError, match="must hold at least one batch"):
        repair(small, dense, [], progress=False)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [1.0, 300.0], ids=["logits", "large"])
def test_half_precision_is_judged_in_single(batches, dtype, size):
    torch.manual_seed(0)
    head = [nn.Flatten(), nn.Linear(8 * 42, 3)] if size == 1.0 else []
    dense = decayed(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), *head)).eval()
    dense[0].weight.data.mul_(size)
    small = Plan({"0": Structure.parse("sekron:8x1x1x1,1x4x3x3@3")}).apply(dense)
    whole = repair(copy.deepcopy(small), dense, batches, progress=False)
    halves = [x.to(dtype) for x in batches]
    outcome = repair(small.to(dtype), dense.to(dtype), halves, progress=False)
    assert outcome.before == pytest.approx(whole.before, rel=0.2)
    assert 0.0 <= outcome.after < 0.9 * outcome.before


def test_a_last_batch_of_one_image_finds_a_variance():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 5)).eval()
    batches = torch.randn(17, 9).split(8)
    assert [len(x) for x in batches] == [8, 8, 1]
    sekron.recalibrate(dense, batches)
    small = Plan({"0": Structure.parse("sekron:8x1,1x9@3")}).apply(dense)
    outcome = repair(small, dense, batches, progress=False)
    assert outcome.after < outcome.before


def test_where_no_gradient_is_possible_that_is_said(small, dense, batches):
    with torch.inference_mode(), pytest.raises(ValueError, match=r"within `torch\.inference_mode"):
        repair(small, dense, batches, progress=False)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize(("n_images", "is_told"), [(15, True), (16, False)])
def test_few_images_are_warned_of(small, dense, batches, fit, n_images, is_told):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(small, dense, list(batches[0][:n_images].split(8)), progress=False)
    told = [str(w.message) for w in caught if "some hundred images, got 15" in str(w.message)]
    assert len(told) == is_told


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_what_was_compiled_in_place_is_fitted_as_what_was_not(fit, batches):
    torch.manual_seed(0)
    dense = Written().eval()
    small = Plan({"first": Structure.parse("sekron:8x1x1x1,1x4x3x3@3")}).apply(dense)
    plain = copy.deepcopy(small)
    small.compile(backend="eager")
    fit(plain, dense, batches, progress=False)
    with torch.no_grad():
        small(batches[0])
    small(batches[0][:18].contiguous(memory_format=torch.channels_last))  # as `tune` shows them
    fit(small, dense, batches, progress=False)
    for own, other in zip(small.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("has_norm", [False, True], ids=["no norm", "norm"])
def test_outputs_that_are_not_finite_are_refused(fit, has_norm):
    torch.manual_seed(0)
    norms = [nn.BatchNorm1d(8)] * has_norm
    dense = nn.Sequential(nn.Linear(9, 8), *norms, nn.ReLU(), nn.Linear(8, 5)).eval()
    small = Plan({"0": Structure.parse("sekron:8x1,1x9@3")}).apply(dense)
    small[-1].bias.data[2] = torch.inf
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(ValueError, match="must be finite"):
        fit(small, dense, [torch.randn(16, 9)], progress=False)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


class Selecting(nn.Module):
    """Gives its last layer the images that are bright, which may be none."""

    def __init__(self, limit):
        super().__init__()
        self.first, self.last, self.limit = nn.Linear(9, 8), nn.Linear(8, 4), limit

    def forward(self, x):
        y = self.first(x).relu()
        return y, self.last(y[x[:, 0] > self.limit])


def test_a_layer_that_gets_no_images_stays_as_it_is():
    torch.manual_seed(0)
    dense = Selecting(99.0).eval()
    first, last = Structure.parse("sekron:8x1,1x9@3"), Structure.parse("sekron:4x1,1x8@2")
    small = Plan({"first": first, "last": last}).apply(dense)
    before = copy.deepcopy(small.last.state_dict())
    outcome = repair(small, dense, [torch.randn(16, 9)], progress=False)
    assert outcome.after < outcome.before
    assert all(torch.equal(before[k], v) for k, v in small.last.state_dict().items())
    lone = Plan({"last": last}).apply(dense)
    with pytest.raises(ValueError, match="must run on the first batch, but none does"):
        repair(lone, dense, [torch.randn(16, 9)], progress=False)


class Beside(nn.Module):
    """Runs a layer whose output is kept, and not put out."""

    def __init__(self):
        super().__init__()
        self.first, self.spare = nn.Linear(9, 8), nn.Linear(9, 4)

    def forward(self, x):
        self.kept = self.spare(x).detach()
        return self.first(x)


@pytest.mark.parametrize("fit", [repair, refit])
@pytest.mark.parametrize("names", [("first", "spare"), ("spare",)], ids="+".join)
def test_a_layer_that_does_not_reach_the_output_is_refused_with_what_can_be_done(fit, names):
    torch.manual_seed(0)
    dense = Beside().eval()
    texts = {"first": "sekron:8x1,1x9@3", "spare": "sekron:4x1,1x9@2"}
    small = Plan({name: Structure.parse(texts[name]) for name in names}).apply(dense)
    message = {
        ("first", "spare"): "'spare' must run on the batches and .*: leave it dense, .* by a plan",
        ("spare",): "must depend on the layers that are decomposed, but does not",
    }
    with pytest.raises(ValueError, match=message[names]):
        fit(small, dense, [torch.randn(16, 9)], progress=False)


class Repeating(nn.Module):
    """Runs its first layer once for every step of a sequence."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.Linear(9, 9), nn.Linear(9, 4)

    def forward(self, x):
        y = x[:, 0]
        for step in x.unbind(1):
            y = self.cell(y + step).tanh()
        return self.head(y)


@pytest.mark.parametrize("lengths", [(5, 7), (7, 5)], ids=str)
@pytest.mark.parametrize("fit", [repair, refit])
def test_batches_may_run_a_layer_unlike_often(fit, lengths):
    torch.manual_seed(0)
    dense = Repeating().eval()
    square, head = Structure.parse("sekron:9x1,1x9@3"), Structure.parse("sekron:4x1,1x9@2")
    small = Plan({"cell": square, "head": head}).apply(dense)
    batches = [torch.randn(16, length, 9) for length in lengths]
    reference = reference_of(dense, inputs_of(batches, dense, "`batches`"))
    before = reference.divergence(small.eval())
    fit(small, dense, batches, progress=False)
    assert reference.divergence(small.eval()) < before


def test_hooks_of_a_layer_change_its_input_once():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    dense[2].register_forward_pre_hook(lambda _, inputs: (inputs[0] / 10 + 1,))
    small = Plan({"2": Structure.parse("sekron:5x1,1x8@1")}).apply(dense).eval()
    batch = torch.randn(64, 9)
    layers = {"2": small[2]}
    rescale(small, dense, layers, list(inputs_of([batch], dense, "`batches`")))
    with torch.no_grad():
        torch.testing.assert_close(small(batch).mean(0), dense(batch).mean(0))


class Routing(nn.Module):
    """Sends every image to one of two layers, by what the first layer makes of it."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(9, 8), nn.Linear(8, 4)
        self.experts = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])

    def forward(self, x):
        y = self.first(x)
        chosen = (y[:, 0] > 0).long()
        out = torch.zeros_like(y)
        for number, expert in enumerate(self.experts):
            out[chosen == number] = expert(y[chosen == number]).relu()
        return self.head(out + y)


def routed():
    """A network, what becomes of it, and batches of which other shares reach its experts there."""
    torch.manual_seed(0)
    dense, batches = Routing().eval(), [torch.randn(64, 9), torch.randn(64, 9)]
    plan = {"first": Structure.parse("sekron:8x1,1x9@4")} | {
        f"experts.{n}": Structure.parse("sekron:8x1,1x8@3") for n in (0, 1)
    }
    small = Plan(plan).apply(dense).eval()
    shares = [int((n.first(batches[0])[:, 0] > 0).sum()) for n in (small, dense)]
    assert shares[0] != shares[1]
    return small, dense, batches


def test_a_layer_that_gets_more_images_than_in_the_dense_network_stays_as_it_is():
    small, dense, batches = routed()
    before, images = copy.deepcopy(small.state_dict()), inputs_of(batches, dense, "`batches`")
    layers = {name: small.get_submodule(name) for name in ("experts.0", "experts.1")}
    rescale(small, dense, layers, list(images))
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
def test_a_network_that_routes_images_by_its_own_numbers_is_fitted(fit):
    small, dense, batches = routed()
    reference = reference_of(dense, inputs_of(batches, dense, "`batches`"))
    first = reference.divergence(small)
    fit(small, dense, batches, progress=False)
    assert reference.divergence(small.eval()) < first
