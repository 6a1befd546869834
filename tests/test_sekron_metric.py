"""A metric against its definition by einsum, and what is decomposed in it by rebuilding."""

import math

import numpy as np
import pytest
import torch

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.geometry import Geometry
from sekron.metric import SENSITIVITY_POWER, Metric, metrics, whole_channels
from sekron.moments import Moments
from sekron.spectrum import Spectra
from sekron.table import CandidateTable

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
    "inputs-chain": "chain:14x2x1x1,1x5x3x5@9",
    "both-sekron": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@6,4",
    "both-cp": "cp:7x2x1x1,2x5x1x1,1x1x3x5@6",
    "both-tucker": "tucker:7x2x1x1,2x5x1x1,1x1x3x5@5,4",
    "both-ring": "ring:7x2x1x5,2x5x3x1@3,2",
    "linear-split": "sekron:7x2,2x5@6",
}
FULL_RANK = {
    "sekron": "sekron:14x1x1x1,1x1x3x5,1x10x1x1@14,15",
    "sekron-split": "sekron:7x2x1x1,2x1x3x1,1x5x1x5@14,6",
    "chain": "chain:14x1x1x1,1x10x1x1,1x1x3x1,1x1x1x5@14,15,5",
    "chain-split": "chain:7x2x1x1,2x5x3x5@14",
    "tucker": "tucker:14x1x1x1,1x10x1x1,1x1x3x5@14,15",
    "tucker-split": "tucker:7x2x1x1,1x5x1x1,2x1x3x5@14,5",
    "cp": "cp:1x10x3x1,14x1x1x5@30",
    "cp-split": "cp:2x1x3x1,7x10x1x5@6",
    "ring": "ring:1x1x3x1,14x10x1x5@3,1",
    "ring-split": "ring:2x1x3x1,7x10x1x5@6,1",
}
ALL = UNSPLIT | SPLIT
POINTS = {case: ALL[case] for case in ("spatial-svd", "tensor-train", "cp-4", "both-sekron")}


def moments_of(n_outputs, n_inputs):
    """Moments with a spectrum that falls by a factor of a hundred."""
    made = []
    for n in (n_outputs, n_inputs):
        basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
        made.append(basis * torch.logspace(0, -2, n, dtype=torch.float64) @ basis.T)
    return Moments(*made, 7.0)


def made(text):
    torch.manual_seed(0)
    structure = Structure.parse(text)
    weight = torch.randn(structure.weight_shape, dtype=torch.float64)
    return structure, weight, Metric.of(moments_of(*structure.weight_shape[:2]))


def size(metric, weight):
    """The norm that the metric stands for, from its definition."""
    return float(torch.einsum("of,fc...,ci->oi...", metric.output, weight, metric.input).norm())


def rebuilt_error(weight, structure, metric, of):
    """The error in a metric of the factors that are computed in another one, or in none."""
    rebuilt = reconstruct(decompose(weight, structure, metric=of), structure)
    return size(metric, weight - rebuilt) / size(metric, weight)


def curve_of(text, weight, metric):
    structure = Structure.parse(text)
    spectra = Spectra(weight, (Geometry.of(structure.weight_shape, (9, 8)),), metric)
    return spectra.curve(structure.family, structure.shapes)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_metric_is_the_root_of_the_damped_moments(power):
    torch.manual_seed(0)
    moments = moments_of(6, 4)
    metric = Metric.of(moments, power=power, damping=0.1)
    for root, own in ((metric.output, moments.gradients), (metric.input, 7.0 * moments.inputs)):
        damped = own + 0.1 * own.trace() / len(own) * torch.eye(len(own)).double()
        values, vectors = np.linalg.eigh(damped.numpy())
        by_hand = vectors @ np.diag(values ** (power / 2)) @ vectors.T
        np.testing.assert_allclose(root.numpy(), by_hand, atol=1e-6)
        assert power or torch.allclose(root, torch.eye(len(root)).double(), atol=1e-6)


@pytest.mark.parametrize("case", UNSPLIT)
def test_whitening_multiplies_both_channel_modes(case):
    _, weight, metric = made(UNSPLIT[case])
    sides = [torch.eye(n, dtype=torch.float64) for n in weight.shape[:2]]
    for modes in ((True, True), (True, False), (False, True), (False, False)):
        left = metric.output if modes[0] else sides[0]
        right = metric.input if modes[1] else sides[1]
        by_hand = torch.einsum("of,fc...,ci->oi...", left, weight, right)
        torch.testing.assert_close(metric.whiten(weight, modes), by_hand)


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
    assert all(whole_channels(structure)) == (case in UNSPLIT)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c, text in UNSPLIT.items()
        if text.count(",") == 1 + ("@" in text and text.split("@")[1].count(","))
    ],
)
def test_two_factors_in_a_metric_are_best_in_it(case):
    structure, weight, metric = made(UNSPLIT[case])
    plain = rebuilt_error(weight, structure, metric, None)
    assert relative_error(weight, structure, metric) <= plain + 1e-9
