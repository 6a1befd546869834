"""Recurrent layers let gradients through in evaluation, where cuDNN refuses them."""

import pytest
import torch
from torch import nn

from sekron import Plan, Structure, tune
from sekron.calibration.moments import moments
from sekron.forward.recurrent import recurrent_differentiable

KINDS = [nn.RNN, nn.LSTM, nn.GRU]


class Sequences(nn.Module):
    """Refuses gradients where cuDNN would: through a recurrence in evaluation."""

    refuses = True

    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(5, 6)
        self.recurrence = kind(6, 7, num_layers=2, dropout=0.5, batch_first=True)
        self.last = nn.Linear(7, 3)

    def forward(self, x):
        y, _ = self.recurrence(self.first(x))
        assert self.recurrence.training or not (self.refuses and y.requires_grad)
        return self.last(y[:, -1])


def made(kind):
    torch.manual_seed(0)
    return Sequences(kind).eval(), [torch.randn(8, 4, 5) for _ in range(2)]


def flags(network):
    return [(m.training, getattr(m, "dropout", None)) for m in network.modules()]


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_gradients_in_evaluation(kind, monkeypatch):
    network, batches = made(kind)
    before = flags(network)
    found = moments(network, ["first"], batches)["first"]
    assert flags(network) == before
    monkeypatch.setattr("sekron.forward.recurrent.SAME_IN_TRAINING", set())
    monkeypatch.setattr(Sequences, "refuses", False)
    wanted = moments(network, ["first"], batches)["first"]
    torch.testing.assert_close(found.gradients, wanted.gradients)
    torch.testing.assert_close(found.inputs, wanted.inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_tuned_through_its_recurrence(kind):
    dense, batches = made(kind)
    small = Plan({"first": Structure.parse("sekron:6x1,1x5@2")}).apply(dense)
    before = flags(small)
    assert tune(small, dense, batches, steps=40, progress=False) < 1.0
    assert flags(small) == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_puts_out_is_the_same_and_an_error_leaves_it_in_evaluation(kind):
    network, batches = made(kind)
    before = flags(network)
    with torch.no_grad(), recurrent_differentiable(network):
        inside = network(batches[0])
    with torch.no_grad():
        torch.testing.assert_close(inside, network(batches[0]))
    with pytest.raises(RuntimeError), recurrent_differentiable(network):
        network(torch.ones(2, 3))
    assert flags(network) == before


class Noisy(nn.LSTM):
    """Does more in training than torch's."""

    def forward(self, x):
        return super().forward(x + torch.randn_like(x) if self.training else x)


def test_a_forward_of_its_own_and_what_trains_are_left_as_they_are():
    own, training = made(Noisy)[0], made(nn.LSTM)[0].train()
    for network in (own, training):
        before = flags(network)
        with recurrent_differentiable(network):
            assert flags(network) == before
        assert flags(network) == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:RNN module weights")  # of a copy
@pytest.mark.parametrize("kind", KINDS)
def test_cudnn_lets_them_through(kind):
    network, batches = made(kind)
    found = moments(network.cuda(), ["first"], [batch.cuda() for batch in batches])["first"]
    assert found.gradients.trace() > 0.0
