"""The inputs of layers that are timed alone are like those that the network gave them."""

import pytest
import torch
from torch import nn

import search
from search.clock.layer_calls import record
from search.clock.stopwatch import Stopwatch
from sekron.layers.operations import Form
from sekron.structures.structure import Structure
from tests.test_search_runtimes import fake_race

__all__ = ["fake_race"]  # a fixture is found by its name

X = torch.arange(5 * 7 * 11, dtype=torch.float32).reshape(5, 7, 11)
INPUTS = {
    "plain": X,
    "transposed": X.transpose(0, 2),
    "sliced": X[:, 1::2, 3:],
    "expanded": X[:1].expand(13, -1, -1),
    "expanded within": X[:, :1].expand(-1, 3, -1),
    "one number": torch.ones(()).expand(2, 3, 5),
    "unfolded": X.unfold(2, 5, 2),
    "overlapping": X.as_strided((3, 4, 5), (2, 3, 1), 7),
    "empty": X[:0],
}


@pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS)
def test_an_input_is_made_again_as_it_lies_in_memory(x):
    network = nn.Sequential(nn.Identity())
    (call,) = record(network, ["0"], lambda: network(x))["0"]
    before = torch.get_rng_state()
    made = call.make()
    assert torch.equal(torch.get_rng_state(), before)
    assert (made.shape, made.stride(), made.dtype) == (x.shape, x.stride(), x.dtype)
    # Two elements share memory where those of the input do.
    places = x.new_empty(0).set_(torch.arange(10_000.0).untyped_storage(), 0, x.shape, x.stride())
    own = {places[at].item(): made[at].item() for at in map(tuple, torch.ones(x.shape).nonzero())}
    assert len(set(own.values())) == len(own)
    torch.testing.assert_close(places.clone().apply_(own.get), made.contiguous())
    assert torch.equal(call.make(), made)


class Latents(nn.Module):
    """Projects its own latents for each image of a batch."""

    def __init__(self):
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, 5, 48))
        self.projection = nn.Linear(48, 32)

    def forward(self, x):
        return self.projection(self.latents.expand(len(x), -1, -1)).mean(1) * x


def test_a_layer_with_an_expanded_input_is_timed(fake_race):
    races = fake_race(lambda n: [1.0] * n)
    network, x = Latents().eval(), torch.randn(1, 32).expand(3, -1)
    stopwatch = Stopwatch(network, x, search.profile(network, x, ["projection"]))
    (layer,) = stopwatch.layers
    structure = Structure.parse("sekron:8x6,4x8@2")
    stopwatch.candidate_ratios(layer, [(structure, Form())], 1.0)
    (dense,), (candidate,) = races[-1]
    assert dense.shape == candidate.shape == (3, 5, 32)
    torch.testing.assert_close(dense[0], dense[1])  # their inputs are the same memory
