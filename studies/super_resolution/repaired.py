"""A plan applied, repaired and tuned, kept so that nothing is fitted twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

import sekron
from studies.super_resolution.networks import Network
from studies.training import RUNS


def repaired(
    network: Network, model: nn.Module, plan: sekron.Plan
) -> tuple[nn.Module, float | None]:
    """Return the network that a plan makes, repaired on the network's calibration.

    It is kept under `.runs`, by the plan's digest, and read from there the next time.

    Args:
        network: Which one, for its name and its crops.
        model: What `network.build` returns; not modified.
        plan: For that network.

    Returns:
        The network, and the seconds of the processor that this took; None where it was kept.
    """

    def repair() -> nn.Module:
        small = plan.apply(model)
        sekron.repair(small, model, network.calibration(), output="values", progress=False)
        return small

    return _kept(_file(network, "repaired", plan), model, repair)


def tuned(network: Network, model: nn.Module, plan: sekron.Plan) -> tuple[nn.Module, float | None]:
    """Return the network that a plan makes, repaired and then tuned on the same crops.

    It is kept and timed as what `repaired` returns is; the seconds are of `tune` alone.
    """
    small, _ = repaired(network, model, plan)

    def tune() -> nn.Module:
        sekron.tune(small, model, network.calibration(), output="values", progress=False)
        return small

    return _kept(_file(network, "tuned", plan), model, tune)


def _file(network: Network, rung: str, plan: sekron.Plan) -> Path:
    return RUNS / f"sr-{network.name}-{rung}" / f"{plan.digest[:16]}.safetensors"


def _kept(
    path: Path, model: nn.Module, make: Callable[[], nn.Module]
) -> tuple[nn.Module, float | None]:
    """Return what is in a file, or what is made and put there, and the seconds of making it."""
    if path.exists():
        return sekron.load(model, path).eval(), None
    start = time.process_time()
    small = make().eval()
    seconds = time.process_time() - start
    path.parent.mkdir(parents=True, exist_ok=True)
    sekron.save(small, path)
    return small, seconds
