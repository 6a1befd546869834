"""The inputs of layers that are timed alone are like those that the network gave them."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

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


class Cast(nn.Module):
    """Convolutions in autocast, one of them twice and one outside of it."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1)
        self.inner, self.plain = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = self.inner(self.inner(self.first(x)))
            with torch.autocast("cpu", enabled=False):
                x = self.plain(x.float())
            return self.last(x).float().mean((2, 3))


CAST = Structure.parse("sekron:4x4x1x1,4x4x3x3@6")


def outputs_of(network, x):
    """Return layer name -> what its calls put out in the network."""
    outputs = {name: [] for name, _ in network.named_children()}
    handles = [
        module.register_forward_hook(lambda _, __, out, name=name: outputs[name].append(out))
        for name, module in network.named_children()
    ]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    return outputs


@pytest.mark.parametrize(
    ("runtime", "dtype"),
    [("torch", None), ("torch.compile", None), ("openvino", torch.float32)],
)
def test_a_layer_alone_is_cast_as_in_its_network(runtime, dtype, fake_race):
    races = fake_race(lambda n: [1.0] * n)
    network, x = Cast().eval(), torch.randn(2, 3, 9, 9)
    stopwatch = Stopwatch(
        network, x, search.profile(network, x, ["inner", "plain", "last"]), runtime
    )
    outputs = outputs_of(network, x)
    assert {y.dtype for y in outputs["inner"] + outputs["last"]} == {torch.bfloat16}
    for layer in stopwatch.layers:
        forms = [Form(), Form((1, 0))]
        stopwatch.candidate_ratios(layer, [(CAST, form) for form in forms], 1.0)
        expected = [(y.shape, dtype or y.dtype) for y in outputs[layer.name]]
        for side in races[-1][:3]:
            assert [(y.shape, y.dtype) for y in side] == expected
    assert not torch.is_autocast_enabled("cpu")
    # The last two differ in nothing but autocast.
    assert len({stopwatch.key(layer) for layer in stopwatch.layers}) == 3


class Casts(TorchDispatchMode):
    """Counts the tensors of each size that are cast."""

    def __init__(self):
        super().__init__()
        self.sizes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default:
            self.sizes[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


def test_autocast_casts_a_weight_once_in_each_pass(monkeypatch):
    network, x = Cast().eval(), torch.randn(2, 3, 9, 9)
    stopwatch = Stopwatch(network, x, search.profile(network, x, ["inner"]))
    casts = []

    def race(runs, _, __, before, *___):
        for _round in range(3):
            for run in runs:
                before()
                with Casts() as seen:
                    run()
                casts.append(seen.sizes)
        return np.ones((len(runs), 10))

    monkeypatch.setattr("search.clock.stopwatch.race", race)
    (inner,) = stopwatch.layers
    stopwatch.candidate_ratios(inner, [(CAST, Form())], 1.0)
    with torch.no_grad(), Casts() as in_network:
        network(x)
    weight = tuple(network.inner.weight.shape)
    assert in_network.sizes[weight] == 2  # inner is called twice; and last
    dense, small = casts[::2], casts[1::2]
    assert [sizes[weight] for sizes in dense] == 3 * [1]
    assert small[0] == small[1] == small[2]
    assert [n for size, n in small[0].items() if len(size) == 4] == [1, 1]  # its factors
