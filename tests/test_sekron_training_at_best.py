"""Of all states that were looked at, a network keeps the best; after an error, its first."""

import pytest
import torch
from torch import nn

from sekron.calibration.divergence import reference_of
from sekron.forward.inputs import as_arguments
from sekron.training.at_best import at_best

BATCHES = [as_arguments(torch.eye(3))]


@pytest.fixture
def network():
    return nn.Linear(3, 1)


@pytest.fixture
def reference(network):
    """What a network of weight 2 puts out."""
    nn.init.constant_(network.weight, 2.0)
    nn.init.zeros_(network.bias)
    return reference_of(network, BATCHES)


def put(network, value):
    nn.init.constant_(network.weight, value)


@pytest.mark.parametrize(
    ("values", "best", "ratio"),
    [
        ([5.0, 3.0, 4.0], 3.0, 1 / 9),
        ([5.0, 6.0], 5.0, 1.0),
        ([5.0, float("nan"), 1.0], 1.0, 1 / 9),
        ([float("nan"), 4.0], 4.0, 0.0),
        ([2.0, 3.0], 2.0, 1.0),
    ],
    ids=str,
)
def test_the_best_state_stays(network, reference, values, best, ratio):
    put(network, values[0])
    with at_best(network, reference) as found:
        for value in values[1:]:
            put(network, value)
            found.look()
        put(network, -7.0)
    assert torch.equal(network.weight, torch.full((1, 3), best))
    assert found.ratio == pytest.approx(ratio)
    assert found.least == pytest.approx((best - 2.0) ** 2 / 4.0)


def test_after_an_error_the_network_is_as_it_came(network, reference):
    put(network, 5.0)
    with pytest.raises(KeyboardInterrupt), at_best(network, reference) as found:  # noqa: PT012  the block raises
        put(network, 2.0)
        found.look()
        raise KeyboardInterrupt
    assert torch.equal(network.weight, torch.full((1, 3), 5.0))


def test_a_sample_comes_from_all_places():
    batches = [as_arguments(torch.full((4, 3), float(i))) for i in range(10)]
    reference = reference_of(nn.Linear(3, 2), batches)
    for n_images, places in ((1, [0]), (8, [0, 5]), (20, [0, 2, 4, 6, 8]), (99, range(10))):
        sample = reference.sample(n_images)
        assert [int(x.tensors[0][0, 0]) for x in sample.batches] == list(places)
        for i, output in zip(places, sample.outputs, strict=True):
            assert output is reference.outputs[i]
