"""A forward that changes its own buffers: whatever runs the network puts them back."""

import pytest
import torch
from torch import nn

import search
import sekron
from search.clock.peak_memory import peak_activation_bytes
from search.verification import verify as verification
from search.verification.checks import CHECKS
from sekron.export.runtimes import make_ready
from sekron.forward.inputs import as_arguments
from sekron.profiling.count import count_flops

X = torch.randn(2, 3)


class Counting(nn.Linear):
    def __init__(self):
        super().__init__(3, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


@pytest.mark.parametrize(
    "use",
    [
        lambda network, _: count_flops(network, X),
        lambda network, _: peak_activation_bytes(network, X),
        lambda network, folder: sekron.export_program(network, X, folder / "a.pt2"),
        lambda network, folder: sekron.export_onnx(network, X, folder / "a.onnx"),
        lambda network, _: make_ready("onnxruntime", network, as_arguments(X)),
        lambda network, _: search.latency(network, X, max_seconds=1e-3),
        lambda network, _: search.profile(network, X),
        lambda network, _: search.verify(network, network, X, measure_seconds=0),
    ],
    ids=["count", "memory", "pt2", "onnx", "runtime", "latency", "profile", "verify"],
)
def test_buffers_are_as_they_were(use, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "CHECKS", {"autocast": CHECKS["autocast"]})
    network = Counting()
    calls = network.calls
    use(network, tmp_path)
    assert network.calls is calls
    assert calls == 0
