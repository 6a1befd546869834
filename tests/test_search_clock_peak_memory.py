"""The memory of a forward pass: sums by hand of what must be held at once, and torch's tracker."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from search.clock.peak_memory import peak_activation_bytes
from sekron import SeKronConv2d, Structure

FLOAT = 4  # bytes


class Function(nn.Module):
    """A network that computes a function of its inputs, with a layer of 7 × 7 at hand."""

    def __init__(self, function):
        super().__init__()
        self.layer = nn.Linear(7, 7)
        self.register_buffer("table", torch.ones(7))
        self.constant = torch.ones(7)
        self.function = function

    def forward(self, *inputs):
        return self.function(self, *inputs)


def peak_of(function, *inputs):
    return peak_activation_bytes(Function(function), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("batch", [1, 11])
@pytest.mark.parametrize("widths", [(5, 3), (3, 5, 7), (7, 5, 3), (5, 13, 3, 11, 7)], ids=str)
def test_a_chain_of_layers_holds_two_neighbours(widths, batch, dtype):
    layers = [nn.Linear(i, o) for i, o in pairwise((2, *widths))]
    numbers = max(a + b for a, b in pairwise(widths))
    model = nn.Sequential(*layers).to(dtype)
    found = peak_activation_bytes(model, torch.ones(batch, 2, dtype=dtype))
    assert found == batch * numbers * dtype.itemsize


def test_convolutions_count_their_images():
    model = nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.Conv2d(7, 5, 3, stride=2), nn.Conv2d(5, 13, (1, 2), bias=False)
    )
    x = torch.ones(2, 3, 13, 17)
    first, second, third = 7 * 11 * 15, 5 * 5 * 7, 13 * 5 * 6
    assert peak_activation_bytes(model, x) == 2 * (first + second) * FLOAT
    assert (
        peak_activation_bytes(model[1:], torch.ones(2, 7, 11, 15)) == 2 * (second + third) * FLOAT
    )


def test_a_factorized_convolution_holds_what_is_between_its_factors():
    layer = SeKronConv2d(Structure.parse("chain:7x1x3x1,1x3x1x3@5"), stride=(2, 1))
    x = torch.ones(2, 3, 11, 13)
    between = {0: 5 * 11 * 11, 1: 5 * 5 * 13}[layer.order[-1]]  # the width or the height first
    assert peak_activation_bytes(layer, x) == 2 * (between + 7 * 5 * 11) * FLOAT


@pytest.mark.parametrize(("inplace", "held"), [(True, 1), (False, 2)], ids=["in-place", "copy"])
def test_an_operation_in_place_adds_nothing(inplace, held):
    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(inplace), nn.Hardtanh(inplace=inplace))
    assert peak_activation_bytes(model, torch.ones(3, 2)) == held * 3 * 5 * FLOAT


def test_a_residual_connection_keeps_its_input():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Linear(5, 13), nn.Linear(13, 5)

        def forward(self, x):
            return x + self.narrow(self.wide(x))

    x, stem, block = torch.ones(3, 2), nn.Linear(2, 5), Block()
    straight = nn.Sequential(stem, block.wide, block.narrow)
    assert peak_activation_bytes(straight, x) == 3 * (5 + 13) * FLOAT
    assert peak_activation_bytes(nn.Sequential(stem, block), x) == 3 * (5 + 13 + 5) * FLOAT
    assert peak_activation_bytes(block, torch.ones(3, 5)) == 3 * (13 + 5) * FLOAT


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(7, 3),
        lambda x: x.mT,
        lambda x: x.unflatten(1, (7, 1)).permute(1, 2, 0),
        lambda x: x.expand(1000, 3, 7),
        lambda x: x.detach()[1:, ::2],
        lambda x: x.chunk(3),
    ],
    ids=["reshape", "transpose", "permute", "expand", "slice", "chunk"],
)
def test_views_cost_nothing(view):
    x = torch.ones(3, 7)
    assert peak_of(lambda _, x: view(x), x) == 0
    assert peak_of(lambda m, _: view(m.layer.weight[:3]), x) == 0
    assert peak_of(lambda m, x: view(m.layer(x)), x) == x.nbytes


def test_a_view_keeps_all_that_it_is_a_view_of():
    first_row = Function(lambda m, x: m.layer(x)[:1])
    model = nn.Sequential(first_row, nn.Linear(7, 2))
    assert peak_activation_bytes(model, torch.ones(5, 7)) == (5 * 7 + 2) * FLOAT


@pytest.mark.parametrize("name", ["table", "constant"])
def test_what_was_there_before_does_not_count(name):
    x = torch.ones(3, 7)
    assert peak_of(lambda m, x: (getattr(m, name).view(1, 7), x.add_(1)), x) == 0
    assert peak_of(lambda m, x: x * getattr(m, name), x) == x.nbytes


def test_what_is_dropped_is_free_again():
    def one_by_one(m, x):
        return [float((x * k).sum()) for k in range(5)]

    def all_at_once(m, x):
        return [x * k for k in range(5)]

    x = torch.ones(3, 7)
    assert peak_of(one_by_one, x) == x.nbytes + FLOAT
    assert peak_of(all_at_once, x) == 5 * x.nbytes


def test_all_results_count_however_they_are_packed():
    def forward(m, x):
        values, indices = x.max(dim=1)
        return {"both": (values, [indices])}

    assert peak_of(forward, torch.ones(3, 7)) == 3 * FLOAT + 3 * 8


def test_a_network_of_several_inputs():
    x, y = torch.ones(3, 7), torch.ones(7)
    assert peak_of(lambda _, x, y, factor: (x + y) * factor, x, y, 2) == 2 * x.nbytes


def test_what_a_network_keeps_counts_once():
    def remember(m, x):
        m.memory = getattr(m, "memory", None) or [x + 1]
        return m.memory[0] * 2

    model, x = Function(remember), torch.ones(3, 7)
    assert peak_activation_bytes(model, x) == 2 * x.nbytes
    assert peak_activation_bytes(model, x) == x.nbytes


def tracked(model, x):
    """Return the peak of torch's own tracker for training."""
    tracker = MemTracker()
    tracker.track_external(model, x)
    with torch.no_grad(), tracker:
        model(x)
    return tracker.get_tracker_snapshot("peak")[x.device][_MemRefType.ACT]


def test_the_peak_is_that_of_torchs_tracker(small_network, small_input):
    assert peak_activation_bytes(small_network, small_input) == tracked(small_network, small_input)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "googlenet"])
def test_the_peak_of_torchvision_is_that_of_torchs_tracker(torchvision, name):
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(**options).eval()
    x = torch.ones(1, 3, 64, 64)
    assert peak_activation_bytes(model, x) == tracked(model, x)


@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
def test_the_model_is_left_as_it_was(fails):
    def forward(m, x):
        assert not m.training
        assert not torch.is_grad_enabled()
        if fails:
            raise RuntimeError("out of order")
        return m.layer(x)

    norm = nn.BatchNorm1d(7)
    model = nn.Sequential(norm, nn.Dropout().eval(), Function(forward)).train()
    model[1].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    x = torch.randn(3, 7)
    kept = x.clone()
    if fails:
        with pytest.raises(RuntimeError, match="out of order"):
            peak_activation_bytes(model, x)
    else:
        peak_activation_bytes(model, x)
    assert [module.training for module in model.modules()] == flags
    assert torch.is_grad_enabled()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert torch.equal(x, kept)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_counts_the_same():
    x = torch.ones(64, 128, device="cuda")  # the allocator counts in blocks of 512 bytes
    model = nn.Sequential(nn.ReLU(), nn.Sigmoid(), nn.Flatten(), nn.ReLU(inplace=True), nn.Tanh())
    assert peak_activation_bytes(model, x) == 2 * x.nbytes == peak_activation_bytes(model, x.cpu())
