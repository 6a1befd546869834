"""What is used from Python alone, for `tests.soak.command`."""

import torch
from torch.utils.data import DataLoader, TensorDataset

import sekron
from tests.trained import images_and_labels, networks, recipe


def finetune():
    """Train a compressed network, or go on, and write it."""
    _, small = networks()
    data, order = TensorDataset(*images_and_labels()), torch.Generator().manual_seed(0)
    loader = DataLoader(data, 8, shuffle=True, generator=order)
    sekron.finetune(small, loader, recipe=recipe(epochs=4), folder="tuned", progress=False)
    sekron.save(small, "out.safetensors")


def load():
    """Read a compressed network, and run it."""
    small = sekron.load(_dense(), "small.safetensors")
    print(small(torch.ones(1, 3, 11, 9)).tolist())


def plan():
    """Read a plan of a calibrated search, and run its network."""
    small = sekron.Plan.load("run/plan.json").apply(_dense())
    print(small(torch.ones(1, 3, 11, 9)).tolist())


def _dense():
    from tests.soak.ground import NETWORK  # noqa: PLC0415  in the process itself

    namespace = {}
    exec(NETWORK, namespace)
    return namespace["small"]().eval()
