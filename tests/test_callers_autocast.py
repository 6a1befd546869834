"""Within the caller's autocast only networks run in half precision, by the weights they have."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import sekron
from sekron.calibration.sensitivity import divergences
from sekron.decomposition import gram
from sekron.decomposition.metric import Metric
from sekron.forward.evaluation import evaluating
from sekron.forward.inputs import as_arguments
from sekron.training.factor_fit import fit_factors
from tests.test_callers_random_numbers import LAYERS, QUIET
from tests.trained import equal, images_and_labels, loader_of, networks, recipe, states


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def identity(n_out, n_in):
    return Metric(*(torch.eye(n, dtype=torch.float64) for n in (n_out, n_in)))


class Casting(nn.Sequential):
    """Runs its layers in half precision: by itself, or if the caller does."""

    by_itself = True

    def forward(self, x):
        with autocast() if self.by_itself else nullcontext():
            x = super().forward(x)
        return x.float()


def finetuned(small, _, images):
    loader = loader_of(images, images_and_labels()[1])
    sekron.finetune(small, loader, recipe=recipe(decay=0.0), **QUIET)


WORK = {
    "recalibrate": lambda small, _, images: sekron.recalibrate(small, images.split(8)),
    "repair": lambda small, dense, images: sekron.repair(small, dense, images.split(8), **QUIET),
    "refit": lambda small, dense, images: sekron.refit(small, dense, images.split(8), **QUIET),
    "tune": lambda *of: sekron.tune(*of[:2], of[2].split(8), steps=40, **QUIET),
    "finetune": finetuned,
    "divergences": lambda _, dense, images: divergences(
        dense, {"5": identity(4, 128)}, [as_arguments(x) for x in images.split(8)]
    ),
}


@pytest.mark.usefixtures("fresh_process")
@pytest.mark.parametrize("work", WORK)
def test_a_network_changes_as_one_that_casts_by_itself(work):
    images, found = images_and_labels()[0], []
    for by_itself in (True, False):
        dense, small = (Casting(*network).eval() for network in networks())
        small.by_itself = dense.by_itself = by_itself
        with nullcontext() if by_itself else autocast():
            small(images)  # with which autocast has cast its weights
            outcome = WORK[work](small, dense, images)
            output = small(images)
        found.append((outcome, states(small), output))
    (outcome, state, output), (other_outcome, other_state, other_output) = found
    assert equal(other_state, state)
    assert torch.equal(other_output, output)
    assert other_outcome == outcome


def test_a_network_is_evaluated_by_the_weights_that_it_has():
    (layer, other), x = (nn.Linear(7, 5) for _ in range(2)), torch.randn(3, 7)
    with autocast():
        layer(x)  # with which autocast has cast its weights
        layer.load_state_dict(other.state_dict())
        with evaluating(layer):
            assert torch.equal(layer(x), other(x))
            layer.weight.neg_()
            layer.bias.neg_()
            assert torch.equal(layer(x), -other(x))
        assert torch.equal(layer(x), -other(x))
        assert torch.is_autocast_cache_enabled()


@pytest.mark.parametrize("text", ["cp:8x1x1,1x6x1,1x1x5@9", "chain:8x1x1,1x6x1,1x1x5@5,3"])
def test_a_weight_is_decomposed_in_its_own_precision(text, monkeypatch):
    monkeypatch.setattr(gram, "WIDE", 1)  # so that the `chain` too is computed in fp32
    weight, structure = torch.randn(8, 6, 5), sekron.Structure.parse(text)
    factors = sekron.decompose(weight, structure)
    with autocast():
        found = sekron.decompose(weight, structure)
    assert all(map(torch.equal, found, factors))


def test_factors_are_fitted_in_single_precision():
    (dense, small), (_, other) = networks(), networks()
    whole = fit_factors(small[3], dense[3].weight, identity(8, 8), 5)
    with autocast():
        found = fit_factors(other[3], dense[3].weight, identity(8, 8), 5)
    assert found == whole
    assert equal(small.state_dict(), other.state_dict())


def test_a_network_that_casts_by_itself_casts_a_weight_once_a_pass():
    network, casts = Casting(*2 * [nn.Linear(5, 5)]), []

    class Noting(TorchDispatchMode):
        def __torch_dispatch__(self, function, _, args=(), kwargs=None):
            casts.extend([function] * (function is torch.ops.aten._to_copy.default))
            return function(*args, **(kwargs or {}))

    def of_a_pass(block):
        casts.clear()
        with block, Noting():
            network(torch.ones(2, 5))
        return len(casts)

    assert of_a_pass(evaluating(network)) == of_a_pass(torch.no_grad())


@pytest.mark.parametrize("name", LAYERS)
def test_factors_are_multiplied_out_in_their_own_precision(name):
    kind, dense, text = LAYERS[name]
    is_linear = kind is sekron.SeKronLinear
    make = kind.from_linear if is_linear else kind.from_conv
    layer = make(dense, sekron.Structure.parse(text))
    weight = layer.dense_weight()
    with autocast():
        plain = layer.to_linear() if is_linear else layer.to_conv()
    assert torch.equal(plain.weight, weight)
    meta = layer.to("meta").dense_weight()
    assert (meta.shape, meta.dtype) == (weight.shape, weight.dtype)
