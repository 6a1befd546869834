"""A network whose forward changes its own buffers is afterwards as it was."""

import copy

import pytest
import torch
from torch import nn

import search
import sekron
from tests.trained import images_and_labels, networks

QUIET = {"progress": False}


class Counting(nn.Sequential):
    """Counts its calls, in place and by a new tensor."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1)
        self.seen = self.seen + len(x)
        return super().forward(x)


BUDGET = search.Budget(flops=0.99)
OPTIONS = {"n_trials": 0, "measure_seconds": 0, "include": ["3"], "budget": BUDGET, **QUIET}
WORK = {
    "latency": lambda dense, _, x: search.latency(dense, x[0], max_seconds=0.1),
    "compare": lambda dense, small, x: search.compare(dense, small, x[0], max_seconds=0.1),
    "calibration": lambda dense, _, x: search.run(dense, x[0], calibration=x, **OPTIONS),
    "repair": lambda dense, small, x: sekron.repair(small, dense, x, **QUIET),
    "refit": lambda dense, small, x: sekron.refit(small, dense, x, steps=2, **QUIET),
    "tune": lambda dense, small, x: sekron.tune(small, dense, x, steps=2, **QUIET),
}


@pytest.mark.parametrize("work", WORK)
def test_what_forward_changes_is_put_back(work):
    dense, small = (Counting(*network) for network in networks())
    buffers, before = dict(dense.named_buffers()), copy.deepcopy(dense.state_dict())
    WORK[work](dense, small, list(images_and_labels()[0].split(8)))
    for name, buffer in dense.named_buffers():
        assert buffer is buffers[name]
        assert torch.equal(buffer, before[name])
