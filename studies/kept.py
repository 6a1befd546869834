"""Weights of a training, kept in a file so that no study trains twice."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from torch import nn

from sekron.forward.evaluation import one_line


def kept(
    path: Path, build: Callable[[], nn.Module], train: Callable[[nn.Module], None], *, seed: int = 0
) -> nn.Module:
    """Build and train a network, or load the weights of an earlier identical training.

    A file that cannot be read, or whose weights do not fit the network, is replaced.

    Args:
        path: Where the weights are kept; its name must carry what determines them.
        build: Returns the network with fresh weights, drawn from torch's global CPU generator,
            which is seeded for the call and restored.
        train: Trains the network in place.
        seed: Seed of the fresh weights.

    Returns:
        The trained network, in eval mode.
    """
    model = _seeded(build, seed)
    if _loaded(model, path):
        return model.eval()
    # A file that fits in part has already overwritten some of the fresh weights.
    model = _seeded(build, seed)
    train(model)
    _save(model, path)
    return model.eval()


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build()


def _loaded(model: nn.Module, path: Path) -> bool:
    """Fill the model from the file; False where there is no file, or none of use."""
    if not path.exists():
        return False
    try:
        load_model(model, path)
    except (SafetensorError, RuntimeError) as error:
        Console(stderr=True).print(
            f"{path} cannot be used ({one_line(error)}); training again.",
            markup=False,
            soft_wrap=True,
        )
        return False
    return True


def _save(model: nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file appears whole or not at all, also when two studies train the same network at once.
    partial = path.with_suffix(f".{os.getpid()}")
    save_model(model, str(partial))
    partial.replace(path)
