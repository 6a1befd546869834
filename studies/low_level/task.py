"""A trained super-resolution network and its data: what is compressed, and on what repaired."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

import search
from studies.low_level.networks import blocks_weights
from studies.low_level.patches import as_batch, batches_of
from studies.low_level.photographs import Photographs
from studies.low_level.training import trained_on_patches

CALIBRATION_SEED, FINETUNING_SEED = 1, 2
"""Patches unlike those of the training, which has the seed 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A trained network and its data.

    Attributes:
        name: Of the network.
        scale: Of the network.
        model: Trained.
        photographs: To train on, and to be judged on.
        unlabelled: Batches of small patches.
        loader: Returns the pairs of patches to fine-tune on, the same for everyone.
    """

    name: str
    scale: int
    model: nn.Module
    photographs: Photographs
    unlabelled: Sequence[Tensor]
    loader: Callable[[], DataLoader[Any]]

    @property
    def example(self) -> Tensor:
        """One small patch."""
        return self.unlabelled[0][:1]

    @property
    def photograph(self) -> Tensor:
        """One small photograph to be judged on, as a batch: what the clock sees."""
        return as_batch(next(iter(self.photographs.tests.values()))[0].small)

    def budget(self, share: float) -> search.Budget:
        """Return the budget that leaves a share of the residual blocks' weights, all else dense."""
        total = sum(parameter.numel() for parameter in self.model.parameters())
        return search.Budget(params=total - round((1.0 - share) * blocks_weights(self.model)))


def task_of(name: str, photographs: Photographs, options: argparse.Namespace) -> Task:
    """Train a network, once, and return it with its data.

    Args:
        name: One of `NETWORKS`.
        photographs: To train on, and to be judged on.
        options: Of the study.
    """
    train = photographs.train
    model = trained_on_patches(
        name,
        options.scale,
        train,
        steps=options.dense_steps,
        batch_size=options.batch,
        size=options.patch,
        learning_rate=options.dense_learning_rate,
        folder=options.runs,
    )
    calibration = batches_of(
        train, options.calibration, options.batch, options.patch, CALIBRATION_SEED
    )
    return Task(
        name,
        options.scale,
        model,
        photographs,
        [small for small, _ in calibration],
        lambda: batches_of(train, options.steps, options.batch, options.patch, FINETUNING_SEED),
    )
