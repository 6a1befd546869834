"""What all tests share: one thread, a torchvision that imports, small networks."""

import gc
import os
import sys
import threading
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from baselines import methods
from search.clock import run_queue
from search.clock.steadiness import Steadiness
from sekron.training.factor_fit import fit_factors
from tests.with_torchvision import define_missing_schemas

# One thread per worker: pytest-xdist runs as many workers as there are cores, and threads that
# compete for a core make a test of small tensors many times slower.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_collection_finish():
    """Let no collection of garbage go through all modules and tests.

    accelerate asks for a whole one after every training, which took half a second.
    """
    import hypothesis  # noqa: F401, PLC0415  it asks for referrers, which what is frozen hides

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def notes(tmp_path_factory):
    """Keep the notes of the command line in these tests' own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def torchvision():
    """Import torchvision also where its compiled operators do not load."""
    library = define_missing_schemas()
    import torchvision  # noqa: PLC0415  only after the schemas are there

    yield torchvision
    del library


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Run `sekron` with arguments and return its exit code, stdout and stderr."""
    from search.cli.app import main  # noqa: PLC0415  slow, and few tests need it

    for module, hook in ((sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))  # the command sets them

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["sekron", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        return (exit_.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def server():
    """A PostgreSQL that runs."""
    from tests.postgresql import running_server  # noqa: PLC0415  few tests need its driver

    with running_server() as made:
        yield made


@pytest.fixture
def fresh_process():
    """Accelerate keeps the precision for the whole process: forget it."""
    from accelerate.state import AcceleratorState  # noqa: PLC0415  slow, and few tests need it

    AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def rivals_in_short(n_ranks=3, sweeps=10):
    """Fit rivals at few ranks, and their CP in few sweeps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "N_RANKS", n_ranks)
        patch.setattr(methods, "cp", partial(methods.cp, n_iter_max=sweeps))
        yield


@pytest.fixture
def few_ranks():
    """Fit rivals in short, where it is not they that are tried."""
    with rivals_in_short():
        yield


@pytest.fixture
def few_steps(monkeypatch):
    """Fit factors in few steps, where it is not their fit that is tried."""

    def briefly(layer, target, metric, steps):
        return fit_factors(layer, target, metric, min(steps, 10))

    for module in ("refit", "sequential_fit"):
        monkeypatch.setattr(f"sekron.training.{module}.fit_factors", briefly)


def decayed(network, power=1.0):
    """Give random weights the falling spectrum of trained ones; return the network."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
                falling = s * torch.arange(1, len(s) + 1) ** -power
                module.weight.copy_(((u * falling) @ v).reshape(module.weight.shape))
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return network


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    """Let no search see that tests run side by side."""
    monkeypatch.setattr(run_queue, "TASKS", Path("/nowhere"))
    monkeypatch.setattr(Steadiness, "add", lambda *_: None)


@pytest.fixture(scope="session")
def small_network():
    """Convolutions with stride, `padding="same"` and 1×1 kernels, then two linear layers."""
    torch.manual_seed(0)
    return decayed(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding="same"),
            nn.ReLU(),
            nn.Conv2d(12, 20, 1, bias=False),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(20, 30),
            nn.ReLU(),
            nn.Linear(30, 5),
        )
    ).eval()


@pytest.fixture(scope="session")
def small_input():
    """Two images for `small_network`, height and width unlike each other."""
    torch.manual_seed(1)
    return torch.randn(2, 3, 14, 11)


@pytest.fixture(scope="session")
def small_weight():
    """The weight of a convolution, `(8, 6, 3, 2)`: all sizes differ, two can be divided."""
    torch.manual_seed(2)
    return decayed(nn.Conv2d(6, 8, (3, 2))).weight.detach()


@pytest.fixture(scope="session")
def small_run(small_network, small_input, tmp_path_factory):
    """The folder of a finished search of `small_network` for half of its FLOPs; do not write."""
    import search  # noqa: PLC0415  slow, and most tests do not need it

    folder = tmp_path_factory.mktemp("runs") / "small"
    budget = search.Budget(flops=0.5)
    search.run(
        small_network,
        small_input,
        budget=budget,
        n_trials=6,
        run=folder,
        measure_seconds=0,
        progress=False,
    )
    return folder
