"""A metric against its definition by einsum, and what is decomposed in it by rebuilding."""

from dataclasses import replace
from math import prod

import numpy as np
import pytest
import torch

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.calibration.metrics import metric_of, metrics_of
from sekron.calibration.moments import Moments
from sekron.decomposition.metric import Metric
from sekron.rank_curves.curves import RankCurve, Spectra
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import whole_channels
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


def whitened(metric, weight, modes=(True, True)):
    """The weight between the matrices of a metric, from its definition."""
    pairs = zip((metric.output, metric.input), modes, strict=True)
    left, right = (own if whole else torch.eye(len(own)).double() for own, whole in pairs)
    return torch.einsum("of,fc...,ci->oi...", left, weight, right)


def size(metric, weight):
    """The norm that the metric stands for."""
    return float(whitened(metric, weight).norm())


def rebuilt_error(weight, structure, metric, of):
    """The error in a metric of the factors that are computed in another one, or in none."""
    rebuilt = reconstruct(decompose(weight, structure, metric=of), structure)
    return size(metric, weight - rebuilt) / size(metric, weight)


def curve_of(case):
    structure, weight, metric = made(ALL[case])
    output_size = (9, 8) if weight.dim() == 4 else (1,)
    spectra = Spectra(weight, (Geometry.of(structure.weight_shape, output_size),), metric)
    return spectra.curve(structure.family, structure.shapes), weight, metric


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_metric_multiplied_with_itself_is_the_damped_moments(power):
    moments = moments_of(7, 5)
    metric = metric_of(moments, power=power, damping=0.1)
    for root, own in ((metric.output, moments.gradients), (metric.input, 7.0 * moments.inputs)):
        damped = own + 0.1 * own.diagonal().mean() * torch.eye(len(own)).double()
        product = torch.linalg.matrix_power(root, round(2 / power))
        torch.testing.assert_close(product, damped, rtol=1e-6, atol=1e-6)
        assert torch.linalg.eigvalsh(root).min() > 0.0


def test_to_the_power_of_zero_a_metric_is_the_identity():
    metric = metric_of(moments_of(7, 5), power=0.0)
    torch.testing.assert_close(metric.output, torch.eye(7).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(metric.input, torch.eye(5).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", ["spatial-svd", "linear", "one-of-each"])
def test_whitening_multiplies_both_channel_modes(case):
    _, weight, metric = made(UNSPLIT[case])
    for modes in ((True, True), (True, False), (False, True), (False, False)):
        found = metric.whiten(weight, modes)
        torch.testing.assert_close(found, whitened(metric, weight, modes))


@pytest.mark.parametrize("case", ALL)
def test_a_diagonal_is_the_matrix_that_it_stands_for(case):
    structure, weight, _ = made(ALL[case])
    sides = [torch.rand(n, dtype=torch.float64) for n in weight.shape[:2]]
    short = metric_of(Moments(*sides, 7.0))
    whole = metric_of(Moments(*map(torch.diag, sides), 7.0))
    torch.testing.assert_close(torch.diag(short.output), whole.output)
    torch.testing.assert_close(torch.diag(short.input), whole.input)
    torch.testing.assert_close(short.whiten(weight), whole.whiten(weight))
    torch.testing.assert_close(short.inverse().whiten(short.whiten(weight)), weight)
    own, other = (relative_error(weight, structure, metric) for metric in (short, whole))
    assert own == pytest.approx(other)
    pairs = [reconstruct(decompose(weight, structure, metric=m), structure) for m in (short, whole)]
    torch.testing.assert_close(*pairs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", FULL_RANK)
def test_full_rank_in_a_metric_is_exact(case):
    structure, weight, metric = made(FULL_RANK[case])
    factors = decompose(weight, structure, metric=metric)
    torch.testing.assert_close(reconstruct(factors, structure), weight, rtol=1e-4, atol=1e-4)
    assert all(whole_channels(structure.shapes)) != case.endswith("split")


@pytest.mark.parametrize("case", ALL)
def test_predicted_error_in_a_metric_is_the_rebuilt_error(case):
    structure, weight, metric = made(ALL[case])
    error = relative_error(weight, structure, metric)
    assert error == pytest.approx(rebuilt_error(weight, structure, metric, metric), abs=1e-5)
    assert 0.0 < error < 1.0
    assert relative_error(torch.zeros_like(weight), structure, metric) == 0.0
    assert all(whole_channels(structure.shapes)) == (case in UNSPLIT)


@pytest.mark.parametrize("case", TWO)
def test_two_factors_in_a_metric_are_best_in_it(case):
    structure, weight, metric = made(UNSPLIT[case])
    rows = [mode for mode, extent in enumerate(structure.shapes[0]) if extent > 1]
    n_rows = prod(structure.shapes[0])
    unfolded = whitened(metric, weight).movedim(rows, list(range(len(rows)))).reshape(n_rows, -1)
    values = torch.linalg.svdvals(unfolded)
    least = float(values[structure.ranks[0] :].norm() / values.norm())
    assert rebuilt_error(weight, structure, metric, metric) == pytest.approx(least, abs=1e-9)
    assert rebuilt_error(weight, structure, metric, None) > least + 1e-3


@pytest.mark.parametrize("case", ALL)
def test_in_a_metric_the_whitened_weight_is_decomposed(case):
    structure, weight, metric = made(ALL[case])
    modes = case in UNSPLIT, case in UNSPLIT or case == "outputs-sekron"  # that no factors divide
    plain = whitened(metric, weight, modes)
    expected = reconstruct(decompose(plain, structure), structure)
    within = reconstruct(decompose(weight, structure, metric=metric), structure)
    torch.testing.assert_close(whitened(metric, within, modes), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ALL)
def test_magnified_factors_are_those_of_the_weight_whitened_where_channels_are_whole(case):
    structure = Structure.parse(ALL[case])
    metric = metric_of(moments_of(*structure.weight_shape[:2]))
    torch.manual_seed(0)
    factors = [torch.randn(shape, dtype=torch.float64) for shape in structure.factor_shapes]
    magnified = metric.magnify(factors, structure)
    whitened = metric.whiten(reconstruct(factors, structure), whole_channels(structure.shapes))
    torch.testing.assert_close(reconstruct(magnified, structure), whitened)
    for factor, again in zip(factors, metric.undo(magnified, structure), strict=True):
        torch.testing.assert_close(again, factor)


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


def test_sensitivities_are_the_curvature_along_the_weights():
    torch.manual_seed(0)
    shapes = {"a": (7, 5, 3, 2), "b": (5, 11), "c": (3, 2, 1, 1)}
    weights = {name: torch.randn(shape).requires_grad_() for name, shape in shapes.items()}
    sides = {name: moments_of(*shape[:2]) for name, shape in shapes.items()}
    places = {"a": 11.0, "b": 1.0, "c": 3.0}
    collected = {name: replace(own, n_positions=places[name]) for name, own in sides.items()}
    found = metrics_of(weights, collected, power=1.0, damping=0.0)
    along = []
    for name, own in sides.items():
        w = weights[name].detach().double().reshape(*shapes[name][:2], -1)
        one = torch.einsum("oik,op,pjk,ij->", w, own.gradients, w, own.inputs)
        along.append(places[name] * float(one))
    expected = np.array(along) / np.mean(along)
    np.testing.assert_allclose([own.sensitivity for own in found.values()], expected, rtol=1e-6)
    zeros = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert {own.sensitivity for own in metrics_of(zeros, collected).values()} == {1.0}


@pytest.mark.parametrize("case", POINTS)
def test_rank_curves_in_a_metric_are_the_errors_of_their_structures(case, monkeypatch):
    monkeypatch.setattr("sekron.rank_curves.rank_grid.FITTED_RANKS", 4)
    curve, weight, metric = curve_of(case)
    assert len(curve.errors) > 0
    for row in range(0, len(curve.errors), max(1, len(curve.errors) // 10)):
        structure, error = curve.structure(row), curve.errors[row]
        assert error == pytest.approx(rebuilt_error(weight, structure, metric, metric), abs=1e-5)


@pytest.mark.parametrize(
    ("metric", "losses"),
    [
        (None, [0.25, 0.01, 0.0]),
        (Metric(torch.eye(7), torch.eye(5), sensitivity=0.3), [0.3 / 16, 0.3e-4, 0.0]),
    ],
    ids=["plain", "metric"],
)
def test_losses_are_squares_but_in_a_metric_fourth_powers_times_the_sensitivity(metric, losses):
    ranks, errors, costs = np.array([[1], [2]]), np.array([0.5, 0.1]), np.array([12, 24])
    table = CandidateTable.within(metric, 35, 35)
    table.add(RankCurve("chain", ((7, 1), (1, 5)), ranks, errors, costs, costs))
    np.testing.assert_allclose(table.losses(), losses, rtol=1e-12)
