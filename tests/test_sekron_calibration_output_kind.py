"""What networks put out, against sums written by hand and against Hessians from autograd."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sekron
from sekron import Plan, Structure
from sekron.calibration.divergence import reference_of
from sekron.calibration.moments import moments
from sekron.calibration.output_kind import KINDS, kind_of
from sekron.forward.inputs import as_arguments

N_DRAWS = 4000
LOGITS, VALUES = KINDS["logits"], KINDS["values"]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def curvature(kind, output):
    """Return the mean of g gᵀ over many draws, for one image."""
    generator, total = torch.Generator().manual_seed(0), 0.0
    for _ in range(N_DRAWS):
        leaf = output.clone().requires_grad_()
        (g,) = torch.autograd.grad(kind.draw(leaf, generator), leaf)
        total = total + torch.outer(g.flatten(), g.flatten())
    return total / N_DRAWS


@pytest.mark.parametrize(
    ("example", "name"),
    [
        (drawn(4, 5), "logits"),
        ((drawn(4, 5), {"aux": drawn(4, 3)}), "logits"),
        (drawn(4, 5).sigmoid(), "values"),
        (drawn(4, 5).softmax(1), "values"),
        (drawn(4, 1), "values"),
        (drawn(4, 5, 3, 3), "values"),
        ((drawn(4, 5), drawn(4, 5, 3)), "values"),
        ((drawn(4, 5), torch.arange(4)), "logits"),
        ((drawn(4, 5), drawn(0, 4)), "values"),
    ],
    ids=["matrix", "matrices", "sigmoid", "softmax", "column", "maps", "mixed", "integers", "none"],
)
def test_outputs_are_guessed_by_what_they_look_like(example, name):
    assert kind_of(None, example) is KINDS[name]


def test_what_the_user_says_counts():
    assert kind_of("values", drawn(4, 5)) is VALUES
    assert kind_of("logits", drawn(4, 5, 3, 3)) is LOGITS
    assert kind_of(LOGITS, drawn(4)) is LOGITS
    assert kind_of(lambda y, t: (y - t).abs().mean(), drawn(4, 5)).name == "given"
    with pytest.raises(ValueError, match=r"must be logits, values or a function .*'logit'"):
        kind_of("logit", drawn(4, 5))


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 3, 3)], ids=str)
def test_logits_are_of_two_classes_or_more(shape):
    message = rf"of two classes .* got an output of shape {re.escape(str(shape))}; .* be values"
    for example in (drawn(*shape), (drawn(4, 5), drawn(*shape))):
        with pytest.raises(ValueError, match=message):
            kind_of("logits", example)
    assert kind_of("logits", None) is LOGITS


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 3, 2)], ids=str)
def test_the_divergence_of_logits_is_that_of_distributions(shape, temperature):
    y, t = drawn(*shape), drawn(*shape, seed=1)
    p, q = ((z / temperature).softmax(dim=1).double() for z in (t, y))
    wanted = temperature**2 * (p * (p / q).log()).sum(dim=1).mean()
    found = LOGITS.divergence(y, t, temperature)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_outputs_of_nothing_have_no_divergence():
    for kind in KINDS.values():
        assert float(kind.divergence(drawn(0, 4), drawn(0, 4), 1.0)) == 0.0


def test_the_divergence_of_values_is_the_relative_squared_error_of_each_tensor():
    y, t = [drawn(4, 5), drawn(4, 1)], [drawn(4, 5, seed=1), drawn(4, 1, seed=2)]
    wanted = sum(
        float((a - b).square().sum() / b.square().sum()) for a, b in zip(y, t, strict=True)
    )
    found = VALUES.divergence({"a": y[0], "b": y[1], "n": 3}, {"a": t[0], "b": t[1], "n": 4}, 1.0)
    assert float(found) == pytest.approx(wanted, rel=1e-6)


def test_a_tensor_of_zeros_does_not_outweigh_the_others():
    y, t, zeros = drawn(4, 5), drawn(4, 5, seed=1), torch.zeros(4, 3)
    alone = VALUES.divergence(y, t, 1.0)
    assert float(VALUES.divergence([y, zeros + 1.0], [t, zeros], 1.0)) == float(alone)
    assert float(VALUES.divergence(zeros + 1.0, zeros, 1.0)) > 0.0
    assert float(VALUES.divergence(zeros, zeros, 1.0)) == 0.0


def test_the_curvature_of_logits_is_the_covariance_of_a_drawn_label():
    y = drawn(1, 4)
    p = y.softmax(dim=1)[0]
    wanted = torch.diag(p) - torch.outer(p, p)
    torch.testing.assert_close(curvature(LOGITS, y), wanted, rtol=0, atol=3 / N_DRAWS**0.5)


def test_the_curvature_of_values_is_the_identity():
    found = curvature(VALUES, drawn(1, 4))
    torch.testing.assert_close(found, torch.eye(4), rtol=0, atol=3 / N_DRAWS**0.5)


def test_a_divergence_of_the_users_is_looked_into_by_its_hessian():
    scales = torch.tensor([1.0, 2.0, 3.0, 5.0])
    kind = kind_of(lambda y, t: ((y - t) * scales).square().sum() / 2, None)
    y = drawn(1, 4)
    found = curvature(kind, y)
    wanted = torch.diag(scales**4)  # (H z)(H z)ᵀ
    torch.testing.assert_close(found / found[0, 0], wanted, rtol=0, atol=3 * 25 * 5 / N_DRAWS**0.5)
    assert float(kind.divergence(y, y + 1.0, 1.0)) == pytest.approx(19.5)


def test_outputs_of_another_shape_or_of_no_numbers_are_refused():
    for kind in KINDS.values():
        with pytest.raises(ValueError, match=r"must have the shape .* \(4, 5\), got \(4, 6\)"):
            kind.divergence(drawn(4, 5), drawn(4, 6), 1.0)
        with pytest.raises(ValueError, match="must put out tensors of real numbers, got none"):
            kind.divergence(torch.arange(3), torch.arange(3), 1.0)


@pytest.mark.parametrize(
    ("value", "got"), [(3.0, "float"), (torch.ones(2), r"\(2,\)"), (None, "NoneType")], ids=str
)
def test_a_divergence_of_the_users_is_a_scalar_tensor(value, got):
    kind = kind_of(lambda *_: value, None)
    for call in (
        lambda: kind.divergence(drawn(4, 5), drawn(4, 5), 1.0),
        lambda: kind.draw(drawn(4, 5), torch.Generator()),
    ):
        with pytest.raises(ValueError, match=f"`output` must return a scalar tensor, got {got}"):
            call()


def test_half_precision_is_compared_in_single():
    y, t = 300.0 * drawn(64, 99), 300.0 * drawn(64, 99, seed=1)
    for kind in KINDS.values():
        whole, half = kind.divergence(y, t, 1.0), kind.divergence(y.half(), t.half(), 1.0)
        assert float(half) == pytest.approx(float(whole), rel=1e-2)


@pytest.fixture
def tracker():
    """Puts out probabilities of many classes at once, as pitch trackers do."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 6), nn.Sigmoid()).eval()


def test_every_stage_takes_the_word_of_the_user(tracker):
    batches = [as_arguments(drawn(16, 9, seed=seed)) for seed in (0, 1)]
    plan = Plan({"0": Structure.parse("sekron:8x1,1x9@3")})

    def distance(y, t):
        return F.binary_cross_entropy(y, t) - F.binary_cross_entropy(t, t)

    for output, name in ((None, "values"), ("logits", "logits"), (distance, "given")):
        small = plan.apply(tracker)
        reference = reference_of(tracker, batches, output)
        before = reference.divergence(small)
        outcome = sekron.repair(small, tracker, batches, output=output, progress=False)
        assert outcome.output == name
        assert outcome.before == pytest.approx(before, rel=1e-5)
        assert outcome.after == pytest.approx(reference.divergence(small), rel=1e-5)
        assert outcome.after < before
        assert sekron.refit(small, tracker, batches, output=output, progress=False) <= 1.0
        assert sekron.tune(small, tracker, batches, steps=2, output=output, progress=False) <= 1.0


def test_the_moments_of_gradients_follow_the_output(tracker):
    found = {
        name: moments(tracker, ["0"], [drawn(64, 9)], output=name)["0"].gradients for name in KINDS
    }
    assert not torch.allclose(*found.values())
