"""A metric against its definition by einsum, and what is decomposed in it by rebuilding."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.calibration.metrics import SENSITIVITY_POWER, metric_of, metrics
from sekron.calibration.moments import Moments
from sekron.decomposition.metric import Metric, whole_channels
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable
from sekron.structures.geometry import Geometry

UNSPLIT = {
    "spatial-svd": "sekron:14x1x3x1,1x10x1x5@9",
    "sekron-3": "sekron:14x1x1x1,1x1x3x5,1x10x1x1@6,4",
    "tucker-2": "chain:14x1x1x1,1x1x3x5,1x10x1x1@7,5",
    "tensor-train": "chain:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@6,9,4",
    "one-factor-has-both": "chain:14x10x1x1,1x1x3x5@3",
    "cp-4": "cp:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@6",
    "tucker-core": "tucker:14x1x1x1,1x10x1x1,1x1x3x5,1x1x1x1@5,4,3",
    "ring-3": "ring:14x1x1x1,1x10x1x1,1x1x3x5@3,4,2",
    "linear": "sekron:14x1,1x10@6",
    "1x1-kernel": "chain:14x1x1x1,1x10x1x1@4",
    "one-output": "chain:1x10x1x1,1x1x3x5@2",
    "one-input": "chain:14x1x1x1,1x1x3x5@3",
    "one-of-each": "chain:1x1x3x1,1x1x1x5@1",
}
SPLIT = {
    "outputs-sekron": "sekron:7x10x1x1,2x1x3x5@6",
    "both-sekron": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@6,4",
    "both-cp": "cp:7x2x1x1,2x5x1x1,1x1x3x5@6",
    "both-ring": "ring:7x2x1x5,2x5x3x1@3,2",
}
FULL_RANK = {
    "sekron": "sekron:14x1x1x1,1x1x3x5,1x10x1x1@14,10",
    "sekron-split": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@14,6",
    "chain": "chain:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@14,15,5",
    "tucker": "tucker:14x1x1x1,1x10x1x1,1x1x3x5@14,10",
    "cp": "cp:1x10x3x1,14x1x1x5@30",
    "cp-split": "cp:2x1x3x1,7x10x1x5@6",
    "ring": "ring:1x1x3x1,14x10x1x5@3,1",
}
ALL = UNSPLIT | SPLIT
TWO = ["spatial-svd", "one-factor-has-both", "linear", "1x1-kernel", "one-output", "one-input"]
POINTS = ["spatial-svd", "sekron-3", "tensor-train", "cp-4", "linear", "both-sekron", "both-cp"]


def moments_of(n_outputs, n_inputs):
    """Moments with a spectrum that falls by a factor of a hundred, the same for the same sizes."""
    torch.manual_seed(0)
    made = []
    for n in (n_outputs, n_inputs):
        basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
        made.append(basis * torch.logspace(0, -2, n, dtype=torch.float64) @ basis.T)
    return Moments(*made, 7.0)


def made(text):
    structure = Structure.parse(text)
    moments = moments_of(*structure.weight_shape[:2])
    weight = torch.randn(structure.weight_shape, dtype=torch.float64)
    return structure, weight, metric_of(moments)


def size(metric, weight):
    """The norm that the metric stands for, from its definition."""
    return float(torch.einsum("of,fc...,ci->oi...", metric.output, weight, metric.input).norm())


def rebuilt_error(weight, structure, metric, of):
    """The error in a metric of the factors that are computed in another one, or in none."""
    rebuilt = reconstruct(decompose(weight, structure, metric=of), structure)
    return size(metric, weight - rebuilt) / size(metric, weight)


def curve_of(case):
    structure, weight, metric = made(ALL[case])
    output_size = (9, 8) if weight.dim() == 4 else (1,)
    spectra = Spectra(weight, (Geometry.of(structure.weight_shape, output_size),), metric)
    return spectra.curve(structure.family, structure.shapes), spectra, weight, metric


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_metric_is_the_root_of_the_damped_moments(power):
    moments = moments_of(6, 4)
    metric = metric_of(moments, power=power, damping=0.1)
    for root, own in ((metric.output, moments.gradients), (metric.input, 7.0 * moments.inputs)):
        damped = own + 0.1 * own.trace() / len(own) * torch.eye(len(own)).double()
        values, vectors = np.linalg.eigh(damped.numpy())
        by_hand = vectors @ np.diag(values ** (power / 2)) @ vectors.T
        np.testing.assert_allclose(root.numpy(), by_hand, atol=1e-6)
        assert power or torch.allclose(root, torch.eye(len(root)).double(), atol=1e-6)


@pytest.mark.parametrize("case", ["spatial-svd", "linear", "one-of-each"])
def test_whitening_multiplies_both_channel_modes(case):
    _, weight, metric = made(UNSPLIT[case])
    sides = [torch.eye(n, dtype=torch.float64) for n in weight.shape[:2]]
    for modes in ((True, True), (True, False), (False, True), (False, False)):
        left = metric.output if modes[0] else sides[0]
        right = metric.input if modes[1] else sides[1]
        by_hand = torch.einsum("of,fc...,ci->oi...", left, weight, right)
        torch.testing.assert_close(metric.whiten(weight, modes), by_hand)


@pytest.mark.parametrize("case", ALL)
def test_a_diagonal_is_the_matrix_that_it_stands_for(case):
    structure, weight, _ = made(ALL[case])
    sides = [torch.rand(n, dtype=torch.float64) for n in weight.shape[:2]]
    short = metric_of(Moments(*sides, 7.0))
    whole = metric_of(Moments(*map(torch.diag, sides), 7.0))
    torch.testing.assert_close(torch.diag(short.output), whole.output)
    torch.testing.assert_close(torch.diag(short.input), whole.input)
    torch.testing.assert_close(short.whiten(weight), whole.whiten(weight))
    torch.testing.assert_close(short.unwhiten(short.whiten(weight)), weight)
    own, other = (relative_error(weight, structure, metric) for metric in (short, whole))
    assert own == pytest.approx(other)
    pairs = [reconstruct(decompose(weight, structure, metric=m), structure) for m in (short, whole)]
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", FULL_RANK)
def test_full_rank_in_a_metric_is_exact(case):
    structure, weight, metric = made(FULL_RANK[case])
    factors = decompose(weight, structure, metric=metric)
    torch.testing.assert_close(reconstruct(factors, structure), weight, rtol=1e-4, atol=1e-4)
    assert all(whole_channels(structure)) != case.endswith("split")


@pytest.mark.parametrize("case", ALL)
def test_predicted_error_in_a_metric_is_the_rebuilt_error(case):
    structure, weight, metric = made(ALL[case])
    error = relative_error(weight, structure, metric)
    assert error == pytest.approx(rebuilt_error(weight, structure, metric, metric), abs=1e-5)
    assert 0.0 < error < 1.0
    assert relative_error(torch.zeros_like(weight), structure, metric) == 0.0
    assert all(whole_channels(structure)) == (case in UNSPLIT)


@pytest.mark.parametrize("case", TWO)
def test_two_factors_in_a_metric_are_best_in_it(case):
    structure, weight, metric = made(UNSPLIT[case])
    found = rebuilt_error(weight, structure, metric, metric)
    assert found <= rebuilt_error(weight, structure, metric, None) + 1e-9


@pytest.mark.parametrize("case", ALL)
def test_the_identity_changes_nothing(case):
    structure, weight, _ = made(ALL[case])
    same = Metric(*(torch.eye(n, dtype=torch.float64) for n in weight.shape[:2]))
    error = relative_error(weight, structure, same)
    assert error == pytest.approx(relative_error(weight, structure), abs=1e-6)
    rebuilt = reconstruct(decompose(weight, structure), structure)
    within = reconstruct(decompose(weight, structure, metric=same), structure)
    torch.testing.assert_close(within, rebuilt, rtol=1e-5, atol=1e-5)


def test_a_dead_layer_has_the_identity():
    dead = metric_of(Moments(torch.zeros(5, 5), torch.zeros(3, 3), 2.0))
    assert torch.equal(dead.output, torch.eye(5).double())
    assert torch.equal(dead.input, torch.eye(3).double())


@pytest.mark.parametrize("case", ALL)
def test_errors_do_not_depend_on_the_scale_of_the_moments(case):
    structure, weight, metric = made(ALL[case])
    own = moments_of(*weight.shape[:2])
    scaled = metric_of(Moments(1e-6 * own.gradients, 1e4 * own.inputs, 3.0))
    assert size(scaled, weight) < 0.5 * size(metric, weight)
    error = relative_error(weight, structure, scaled)
    assert error == pytest.approx(relative_error(weight, structure, metric), abs=1e-5)


@pytest.mark.parametrize("case", ["spatial-svd", "both-sekron"])
@pytest.mark.parametrize("function", [decompose, relative_error], ids=lambda f: f.__name__)
def test_weights_of_another_shape_are_refused_in_a_metric(case, function):
    structure, weight, metric = made(ALL[case])
    for other in (weight[..., :4], weight[:7], weight[:, :5]):
        with pytest.raises(ValueError, match=r"must have the shape \(14, 10, 3, 5\) of"):
            function(other, structure, metric=metric)


def test_sensitivities_are_the_sizes_of_the_whitened_weights():
    torch.manual_seed(0)
    shapes = {"a": (6, 4, 3, 3), "b": (5, 7), "c": (3, 2, 1, 1)}
    weights = {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}
    collected = {name: moments_of(*shape[:2]) for name, shape in shapes.items()}
    found = metrics(weights, collected)
    norms = np.array([size(found[n], weights[n].detach().double()) for n in shapes])
    expected = norms**SENSITIVITY_POWER / (norms**SENSITIVITY_POWER).mean()
    np.testing.assert_allclose([own.sensitivity for own in found.values()], expected, rtol=1e-9)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert {own.sensitivity for own in metrics(zeros, collected).values()} == {1.0}


@pytest.mark.parametrize("case", POINTS)
def test_rank_curves_in_a_metric_are_the_errors_of_their_structures(case, monkeypatch):
    monkeypatch.setattr("sekron.rank_curves.rank_grid.FITTED_RANKS", 4)
    curve, _, weight, metric = curve_of(case)
    assert len(curve.errors) > 0
    for row in range(0, len(curve.errors), max(1, len(curve.errors) // 10)):
        structure, error = curve.structure(row), curve.errors[row]
        assert error == pytest.approx(rebuilt_error(weight, structure, metric, metric), abs=1e-5)
        assert error == pytest.approx(relative_error(weight, structure, metric), abs=1e-6)


def test_losses_in_a_metric_are_fourth_powers_times_the_sensitivity():
    curve, spectra, _, metric = curve_of("spatial-svd")
    weighed = replace(metric, sensitivity=0.3)
    table = CandidateTable.within(weighed, spectra.dense_flops, spectra.dense_params)
    table.add(curve)
    np.testing.assert_allclose(table.losses(), [*(0.3 * table.errors**4), 0.0], rtol=1e-12)
