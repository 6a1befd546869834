"""Sensitivities against divergences computed layer by layer on copies."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sekron import Structure, decompose, reconstruct, relative_error
from sekron.calibration.sensitivity import (
    LEAST,
    LEVELS,
    _approximations,
    divergences,
    sensitivities,
    weighted_by,
)
from sekron.decomposition.metric import Metric
from sekron.forward.inputs import as_arguments


def identity(n_out, n_in, sensitivity=1.0):
    return Metric(*(torch.eye(n, dtype=torch.float64) for n in (n_out, n_in)), sensitivity)


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.Flatten(), nn.Linear(12 * 16, 5),
    )  # fmt: skip
    network[1].running_mean.normal_()
    return network.train()


@pytest.fixture
def batches():
    torch.manual_seed(1)
    return [as_arguments(x) for x in torch.randn(10, 3, 8, 8).split(4)]


@pytest.fixture
def metrics():
    torch.manual_seed(2)
    draws = torch.randn(8, 30, dtype=torch.float64)
    return {"3": Metric(torch.eye(12, dtype=torch.float64), draws @ draws.T), "5": identity(5, 192)}


def outputs(network, x, on_batch=True):
    network = copy.deepcopy(network).eval()
    network[1].train(on_batch)
    with torch.no_grad():
        return x.run(network).log_softmax(1)


def compressed(model, name, structure, metric):
    small = copy.deepcopy(model)
    weight = small.get_submodule(name).weight
    factors = decompose(weight, structure, metric=metric)
    weight.data = reconstruct(factors, structure).detach()
    return small


def low_rank(weight, rank):
    n_out, n_in, *kernel = weight.shape
    return Structure("sekron", ((n_out, 1, *[1] * len(kernel)), (1, n_in, *kernel)), (rank,))


@pytest.mark.parametrize("n_images", [10, 1])
def test_one_layer_at_a_time_is_compressed(model, batches, metrics, n_images):
    batches = batches if n_images > 1 else [batches[0].images(0, 1)]
    before = copy.deepcopy(model.state_dict())
    found = divergences(model, metrics, batches)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    for name, metric in metrics.items():
        weight = model.get_submodule(name).weight
        ranks = range(1, min(weight.shape[0], weight[0].numel()))
        errors = {r: relative_error(weight, low_rank(weight, r), metric) for r in ranks}
        chosen = sorted({min(errors, key=lambda r: abs(errors[r] - level)) for level in LEVELS})
        for rank, (error, divergence) in zip(chosen, found[name], strict=True):
            assert error == pytest.approx(errors[rank], abs=1e-6)
            small = compressed(model, name, low_rank(weight, rank), metric)
            total = 0.0
            for x in batches:
                own, wanted = (outputs(n, x, n_images > 1) for n in (small, model))
                total += float(F.kl_div(own, wanted, log_target=True, reduction="sum"))
            assert divergence == pytest.approx(total / n_images, rel=1e-4, abs=1e-7)


def test_sensitivities_are_fitted_in_the_logarithm():
    exact = {
        name: [(error, size * error**4) for error in (0.2, 0.5, 0.7)]
        for name, size in {"a": 3.0, "b": 1.0}.items()
    }
    assert sensitivities(exact) == pytest.approx({"a": 1.5, "b": 0.5})
    spread = {"a": [(0.5, 2 * 0.5**4), (0.5, 8 * 0.5**4)], "b": [(0.5, 4 * 0.5**4)]}
    assert sensitivities(spread) == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_layer_that_was_not_compressed_counts_as_an_average_one():
    found = {"a": [], "b": [(1.0, 0.1)], "c": [(1.0, 0.3)]}
    assert sensitivities(found) == pytest.approx({"a": 1.0, "b": 0.5, "c": 1.5})
    assert sensitivities({"a": []}) == {"a": 1.0}
    assert sensitivities({}) == {}


def test_they_take_the_place_of_the_metrics_own():
    own = {"a": identity(3, 2, 0.2), "b": identity(2, 4, 1.8)}
    found = weighted_by(own, {"a": [(1.0, 3.2)], "b": [(1.0, 0.8)]})
    assert [metric.sensitivity for metric in found.values()] == pytest.approx([1.6, 0.4])
    assert found["b"].input is own["b"].input
    assert found["a"].output is own["a"].output


def test_a_divergence_of_nothing_counts_as_the_least():
    pairs = {"a": [(1.0, 0.0)], "b": [(1.0, LEAST)]}
    assert sensitivities(pairs) == pytest.approx({"a": 1.0, "b": 1.0})


def test_a_layer_of_rank_one_or_of_zeros_is_left_alone(model, batches):
    for fill in (torch.zeros(12, 8, 3, 3), torch.ones(12, 8, 3, 3)):
        model[3].weight.data.copy_(fill)
        assert divergences(model, {"3": identity(12, 8)}, batches) == {"3": []}
    single = nn.Sequential(nn.Flatten(), nn.Linear(192, 1))
    assert divergences(single, {"1": identity(1, 192)}, batches) == {"1": []}


class Of(nn.Module):
    """A function of the output of an identity."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4, bias=False), function
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda y: y[(y > 0.5).any(1)], "keep their shapes"),
        (lambda y: y / y.amax(1, keepdim=True), "stay finite"),
    ],
    ids=["shapes", "finite"],
)
def test_outputs_that_cannot_be_compared_are_refused(function, rule):
    with pytest.raises(ValueError, match=f"must {rule} when layer 'layer' is compressed"):
        divergences(Of(function), {"layer": identity(4, 4)}, [as_arguments(torch.eye(4))])


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (6, 2, 3, 3)], ids=str)
def test_a_layer_is_tried_at_its_best_approximations(shape):
    torch.manual_seed(3)
    weight = torch.randn(shape, dtype=torch.float64)
    matrix = weight.flatten(1)
    found = list(_approximations(weight, identity(shape[0], shape[1])))
    assert found
    for error, low in found:
        rank = int(torch.linalg.matrix_rank(low.flatten(1), rtol=1e-6))
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        torch.testing.assert_close(low.flatten(1), (u[:, :rank] * s[:rank]) @ vh[:rank])
        assert error == pytest.approx(float((matrix - low.flatten(1)).norm() / matrix.norm()))


def test_what_is_rounding_alone_is_no_approximation():
    torch.manual_seed(4)
    weight = torch.randn(20, 1, dtype=torch.float64) @ torch.randn(1, 30, dtype=torch.float64)
    assert list(_approximations(weight, identity(20, 30))) == []
