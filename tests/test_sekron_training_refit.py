"""Refitting against closed forms: truncation in the metric is the optimum of two factors."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

import sekron
from sekron import Plan, Structure, decompose, reconstruct, refit
from sekron.calibration.metrics import metric_of
from sekron.calibration.moments import moments
from sekron.training.factor_fit import _squared, fit_factors, metric_of_fit
from sekron.training.refit import LARGEST_PATCH
from tests.conftest import decayed

QUIET = {"progress": False}
CONVOLUTIONS = [
    {"padding": 1},
    {"stride": 2, "padding": (2, 1)},
    {"dilation": 2, "padding": "same"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (1, 2), "padding_mode": "circular"},
]


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [(torch.randn(20, 4, 9, 8) + 0.3).cumsum(1) for _ in range(2)]


@pytest.fixture
def dense(batches):
    torch.manual_seed(0)
    network = decayed(
        nn.Sequential(
            nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 6),
        )
    ).eval()  # fmt: skip
    sekron.recalibrate(network, batches)
    return network


@pytest.fixture
def small(dense):
    texts = {"0": "cp:8x1x1x1,1x4x1x1,1x1x3x3@3", "3": "sekron:12x1x1x1,1x8x3x3@4"}
    texts["6"] = "chain:6x1,1x12@3"
    return Plan({name: Structure.parse(text) for name, text in texts.items()}).apply(dense)


def misfit(model, dense, batches):
    """The divergence of the outputs, by hand."""
    with torch.no_grad():
        return sum(
            float(
                torch.nn.functional.kl_div(
                    model(x).log_softmax(1), dense(x).log_softmax(1), log_target=True,
                    reduction="sum",
                )
            )
            for x in batches
        )  # fmt: skip


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
def test_patches_are_what_the_kernel_sees(options):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, (3, 2), bias=False, **options).double()
    x = torch.randn(20, 3, 8, 7, dtype=torch.float64)
    found = moments(layer, [""], [x], largest_patch=18)[""].inputs
    n_rows = layer(x)[:, 0].numel()
    gram = torch.einsum("noij,npij->op", layer(x), layer(x)) / n_rows
    kernel = layer.weight.detach().flatten(1)
    torch.testing.assert_close(kernel @ found @ kernel.T, gram, rtol=1e-5, atol=1e-5)
    assert found.shape == (18, 18)
    assert moments(layer, [""], [x], largest_patch=17)[""].inputs.shape == (3, 3)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_two_factors_reach_the_optimum(dense, batches, rank):
    structure = Structure.parse(f"sekron:12x1x1x1,1x8x3x3@{rank}")
    layer = Plan({"3": structure}).apply(dense)[3]
    metric = metric_of(moments(dense, ["3"], batches, largest_patch=LARGEST_PATCH)["3"])
    weight = dense[3].weight.detach()
    before, after = fit_factors(layer, weight, metric, 500)
    flat = Structure.parse(f"sekron:12x1,1x72@{rank}")
    best = reconstruct(decompose(weight.flatten(1), flat, metric=metric), flat)
    kernel = layer.dense_weight().detach().flatten(1)
    lost = [float(metric.whiten(weight.flatten(1) - w).norm()) for w in (kernel, best)]
    assert lost[0] == pytest.approx(lost[1], rel=1e-3)
    size = float(metric.whiten(weight.flatten(1)).norm())
    assert after == pytest.approx((lost[0] / size) ** 2, rel=1e-3)
    assert after < before


def test_channels_weigh_every_place_of_a_kernel_alike(dense, batches):
    layer = Plan({"3": Structure.parse("sekron:12x1x1x1,1x8x3x3@4")}).apply(dense)[3]
    metric = metric_of(moments(dense, ["3"], batches)["3"])
    weight = dense[3].weight.detach()
    _, after = fit_factors(layer, weight, metric, 500)
    whole = decompose(weight, layer.structure, metric=metric)  # the optimum of two factors
    lost = [
        float(metric.whiten(weight - reconstruct(factors, layer.structure)).detach().norm())
        for factors in (layer.factors(), whole)
    ]
    assert lost[0] == pytest.approx(lost[1], rel=1e-3)
    assert after == pytest.approx((lost[0] / float(metric.whiten(weight).norm())) ** 2, rel=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "cp:12x1x1x1,1x8x1x1,1x1x3x3@5",
        "sekron:12x1x3x1,1x8x1x3@4",
        "chain:12x1x1x1,1x1x3x3,1x8x1x1@4,3",
        "sekron:4x8x1x1,3x1x3x3@2",  # divides channels: no coordinates hold all of the metric
    ],
)
def test_a_metric_of_channels_is_that_of_patches_in_which_places_are_alike(dense, batches, text):
    metric, weight = metric_of(moments(dense, ["3"], batches)["3"]), dense[3].weight.detach()
    whole = replace(metric, input=torch.kron(metric.input, torch.eye(9, dtype=torch.float64)))
    errors = []
    for own in (metric, whole):
        layer = Plan({"3": Structure.parse(text)}).apply(dense)[3]
        errors.append(fit_factors(layer, weight, own, 200))
    assert errors[1] == pytest.approx(errors[0], rel=1e-2)
    assert errors[0][1] < errors[0][0]


def test_diagonals_weigh_as_the_matrices_that_they_stand_for(dense, batches):
    collected = moments(dense, ["3"], batches)["3"]
    kernels = []
    for make in (torch.Tensor.diagonal, lambda m: torch.diag(m.diagonal())):
        diagonal = replace(
            collected, gradients=make(collected.gradients), inputs=make(collected.inputs)
        )
        layer = Plan({"3": Structure.parse("sekron:12x1x1x1,1x8x3x3@4")}).apply(dense)[3]
        fit_factors(layer, dense[3].weight, metric_of(diagonal), 3)
        kernels.append(layer.dense_weight().detach())
    torch.testing.assert_close(*kernels, rtol=1e-4, atol=1e-5)


def test_where_the_start_has_large_and_small_factors_a_fit_gets_as_far(dense, batches):
    metric = metric_of_fit(moments(dense, ["3"], batches, largest_patch=LARGEST_PATCH)["3"])
    weight, errors = dense[3].weight, []
    for scales in ((1.0, 1.0, 1.0), (1e3, 1e-3, 1.0)):
        layer = Plan({"3": Structure.parse("cp:12x1x1x1,1x8x1x1,1x1x3x3@5")}).apply(dense)[3]
        pairs = zip(scales, layer.factors(), strict=True)
        layer.set_factors([scale * factor.detach() for scale, factor in pairs])
        errors.append(fit_factors(layer, weight, metric, 100))
    assert errors[1][0] == pytest.approx(errors[0][0], rel=1e-3)
    assert errors[1][1] == pytest.approx(errors[0][1], rel=1e-2)
    assert errors[0][1] < 0.9 * errors[0][0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_half_precision_is_fitted_in_single_and_cast_back(dense, batches, dtype, seed):
    torch.manual_seed(seed)
    conv = decayed(nn.Conv2d(4, 8, 3), 2.0).to(dtype)
    metric = metric_of(moments(dense, ["0"], batches, largest_patch=LARGEST_PATCH)["0"])
    layer = Plan({"": Structure.parse("cp:8x1x1x1,1x4x1x1,1x1x3x3@3")}).apply(conv)
    before, after = fit_factors(layer, conv.weight, metric, 100)
    assert after < before
    assert {factor.dtype for factor in layer.factors()} == {dtype}
    exact = metric.whiten(conv.weight.detach().flatten(1).double())
    lost = metric.whiten((conv.weight - layer.dense_weight()).detach().flatten(1).double())
    measured = float(lost.square().sum() / exact.square().sum())
    assert measured == pytest.approx(after, rel=0.1)


def test_it_returns_what_it_gained(small, dense, batches):
    # In fp32 the divergence of so near networks has hardly three digits.
    small, dense = small.double(), dense.double()
    batches = [images.double() for images in batches]
    before = misfit(small, dense, batches)
    gain = refit(small, dense, batches, **QUIET)
    after = misfit(small, dense, batches)
    assert gain == pytest.approx(after / before, rel=1e-9)
    assert gain < 0.5
    assert refit(small, dense, batches, steps=1, **QUIET) <= 1.0


def test_the_sequence_gains_over_each_layer_by_itself(small, dense, batches):
    alone = copy.deepcopy(small)
    collected = moments(dense, ["0", "3", "6"], batches, largest_patch=LARGEST_PATCH)
    for name, of_layer in collected.items():
        weight = dense.get_submodule(name).weight
        fit_factors(alone.get_submodule(name), weight, metric_of(of_layer), 100)
    sekron.recalibrate(alone, batches)
    refit(small, dense, batches, **QUIET)
    assert misfit(small, dense, batches) < 0.9 * misfit(alone, dense, batches)


def test_kernels_that_take_in_too_much_are_fitted_by_channels(small, dense, batches, monkeypatch):
    monkeypatch.setattr("sekron.training.refit.LARGEST_PATCH", 0)
    assert refit(small, dense, batches, **QUIET) < 1.0


def test_batch_norm_is_re_estimated_and_the_dense_network_stays(small, dense, batches):
    state = copy.deepcopy(dense.state_dict())
    small.train()
    refit(small, dense, [(x, None) for x in batches], **QUIET)
    assert small.training
    assert all(torch.equal(state[k], v) for k, v in dense.state_dict().items())
    again = copy.deepcopy(small)
    sekron.recalibrate(again, batches)
    torch.testing.assert_close(again[1].running_mean, small[1].running_mean)
    assert all(p.grad is None for p in small.parameters())


def test_a_network_without_batch_norm_needs_none(batches):
    torch.manual_seed(0)
    dense = decayed(nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8 * 42, 3)))
    small = Plan({"0": Structure.parse("chain:8x1x3x1,1x4x1x3@4")}).apply(dense)
    assert refit(small, dense, batches, **QUIET) < 1.0


def test_subnormal_weights_count_as_none():
    matrix = torch.tensor([[2.0, 0.0], [0.0, 1e-20]], dtype=torch.float64)
    for metric in (matrix, matrix.diagonal()):
        squared = _squared(metric, torch.zeros(1))
        assert squared.dtype == torch.float32
        assert squared.sum() == squared.max() == 1.0
        exact = metric**2 if metric.dim() == 1 else matrix @ matrix
        assert torch.equal(_squared(metric, matrix), exact / 4.0)


def test_an_exact_layer_stays(dense, batches):
    small = Plan({"3": Structure.parse("sekron:12x1x1x1,1x8x3x3@12")}).apply(dense)
    refit(small, dense, batches, **QUIET)
    torch.testing.assert_close(small[3].dense_weight(), dense[3].weight, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batches": []}, "must hold at least one batch, got none"),
        ({"batches": [torch.zeros(2, 5, 9, 8)]}, r"must run .* on \(2, 5, 9, 8\) it raised"),
        ({"batches": [torch.full((2, 4, 9, 8), float("nan"))]}, "must be finite, got NaN or Inf"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"model": nn.Linear(2, 2)}, "must have factorized layers to refit, but has none"),
    ],
    ids=["none", "shape", "nan", "steps", "dense"],
)
def test_what_is_refused_changes_nothing(small, dense, batches, change, message):
    before = copy.deepcopy(small.state_dict())
    arguments = {"model": small, "dense": dense, "batches": batches, **QUIET, **change}
    with pytest.raises(ValueError, match=message):
        refit(**arguments)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


@pytest.mark.parametrize(
    ("other", "found"),
    [(nn.Flatten(), "no weight"), (nn.Conv2d(4, 9, 3), r"a weight \(9, 4, 3, 3\)")],
)
def test_networks_must_fit_together(small, dense, batches, other, found):
    before = copy.deepcopy(small.state_dict())
    dense[0] = other
    message = rf"layer '0' has a weight \(8, 4, 3, 3\) in the compressed one and {found} in"
    with pytest.raises(ValueError, match=message):
        refit(small, dense, batches, **QUIET)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())


def test_what_was_compressed_before_stays(small, dense, batches):
    once = Plan({"0": small[0].structure}).apply(dense)
    sekron.recalibrate(once, batches)
    twice = Plan({"3": small[3].structure}).apply(once)
    first = [factor.clone() for factor in twice[0].factors()]
    assert refit(twice, once, batches, **QUIET) < 1.0
    assert all(torch.equal(a, b) for a, b in zip(first, twice[0].factors(), strict=True))


def test_a_network_that_computes_the_same_is_left_alone(dense, batches):
    small = Plan({"3": Structure.parse("sekron:12x1x1x1,1x8x3x3@12")}).apply(dense)
    assert refit(small, dense, batches[:1], **QUIET) <= 1.0
    torch.testing.assert_close(small(batches[0]), dense(batches[0]), rtol=1e-3, atol=1e-3)


def test_an_interruption_takes_everything_back(small, dense, batches, monkeypatch):
    before = copy.deepcopy(small.state_dict())

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sekron.training.refit.recalibrate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refit(small, dense, batches, **QUIET)
    assert all(torch.equal(before[k], v) for k, v in small.state_dict().items())
