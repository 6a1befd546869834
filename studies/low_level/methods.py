"""Ours and the rivals, each for a share of the residual blocks' weights, and their ladder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

import baselines
import search
import sekron
from baselines.contenders import Decomposed
from sekron.network.copying import copy_of
from sekron.network.surgery import structures_of
from sekron.profiling.profile import profile
from studies.low_level.networks import BLOCKS
from studies.low_level.task import Task
from studies.low_level.training import l1

DENSE = "dense"
PLAIN, CALIBRATED = "sekron, plain", "sekron, calibrated"
"""Our plan from a search that has seen no image, and from one in a metric."""

RIVALS = ("gkpd", "tensor_train", "tensor_ring", "cp", "tucker2")
METHODS = (PLAIN, CALIBRATED, *RIVALS)
RUNGS = ("decomposed", "repaired", "tuned", "finetuned")

Compress = Callable[[float], nn.Module | None]
"""From a share to a compressed network, or None where it is out of reach."""


def compressing(
    task: Task, method: str, *, trials: int, max_length: int, max_seconds: float, runs: Path
) -> Compress:
    """Return what compresses the residual blocks of a network by a method.

    Args:
        task: The network.
        method: One of `METHODS`, or `DENSE`, which returns a copy.
        trials: Of our search, per layer.
        max_length: Of a sequence, in our search.
        max_seconds: For all candidates of a rival.
        runs: Where our searches are kept.
    """
    if method == DENSE:
        return lambda _: copy_of(task.model)
    if method in (PLAIN, CALIBRATED):
        label = "plain" if method == PLAIN else "calibrated"

        def searched(share: float) -> nn.Module | None:
            try:
                result = search.run(
                    task.model,
                    task.example,
                    budget=task.budget(share),
                    n_trials=trials,
                    max_sequence_length=max_length,
                    include=[BLOCKS],
                    run=runs / f"low_level-{task.name}-x{task.scale}-{label}",
                    measure_seconds=0,
                    calibration=None if method == PLAIN else task.unlabelled,
                )
            except search.InfeasibleBudget:
                return None
            return result.best.apply(task.model)

        return searched
    return functools.partial(_entered, _rival(task, method, max_seconds), task)


def _rival(task: Task, method: str, max_seconds: float) -> Decomposed:
    measured = profile(task.model, task.example, include=[BLOCKS])
    own = baselines.METHODS[method]
    tables = baselines.candidates(task.model, measured, own, max_seconds=max_seconds)
    return Decomposed(task.model, measured, tables, own.factorize)


def _entered(rival: Decomposed, task: Task, share: float) -> nn.Module | None:
    entry = rival.enter(task.budget(share), "exact")
    return None if entry is None else entry.network


def climb(
    task: Task, network: nn.Module, *, tune_steps: int, learning_rate: float
) -> Iterator[str]:
    """Repair a network further and further, in place; yield the names of the rungs.

    The dense network, in which there is nothing to repair, is fine-tuned alone.

    Args:
        task: The network's.
        network: Compressed, or a copy of the dense one.
        tune_steps: Steps of tuning.
        learning_rate: Of the fine-tuning, which goes through the task's patches once.
    """
    yield RUNGS[0]
    if structures_of(network):
        sekron.repair(network, task.model, task.unlabelled)
        yield RUNGS[1]
        sekron.tune(network, task.model, task.unlabelled, steps=tune_steps)
        yield RUNGS[2]
    recipe = sekron.Recipe(epochs=1, learning_rate=learning_rate, decay=0.0)
    sekron.finetune(network, task.loader(), recipe=recipe, loss=l1)
    yield RUNGS[3]
