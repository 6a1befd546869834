"""A plan applied and repaired, kept so that nothing is repaired twice."""

from __future__ import annotations

import time

from torch import nn

import sekron
from studies.super_resolution.networks import Network
from studies.training import RUNS


def repaired(network: Network, model: nn.Module, plan: sekron.Plan) -> tuple[nn.Module, float]:
    """Return the network that a plan makes, repaired on the network's calibration.

    It is kept under `.runs`, by the plan's digest, and read from there the next time.

    Args:
        network: Which one, for its name and its crops.
        model: What `network.build` returns; not modified.
        plan: For that network.

    Returns:
        The network, and the seconds of the processor that this took.
    """
    start = time.process_time()
    path = RUNS / f"sr-{network.name}-repaired" / f"{plan.digest[:16]}.safetensors"
    if path.exists():
        small = sekron.load(model, path)
    else:
        small = plan.apply(model)
        sekron.repair(small, model, network.calibration(), output="values", progress=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        sekron.save(small, path)
    return small.eval(), time.process_time() - start
