"""Train a super-resolution network on pairs of patches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.progress import bar
from studies.kept import kept
from studies.low_level.images import Pair
from studies.low_level.networks import NETWORKS
from studies.low_level.patches import batches_of
from studies.training import RUNS

BETAS = (0.9, 0.99)
CLIP = 1.0
"""Norm to which a gradient is cut: the first steps of a network that adds no small image."""


def l1(output: Tensor, batch: Any) -> Tensor:
    """Return the mean absolute difference from the large patches of a batch."""
    return F.l1_loss(output, batch[1])


def trained_on_patches(
    name: str,
    scale: int,
    pairs: Sequence[Pair],
    *,
    steps: int,
    batch_size: int,
    size: int,
    learning_rate: float,
    seed: int = 0,
    folder: Path = RUNS,
) -> nn.Module:
    """Train a network from fresh weights, or load those of an earlier identical training.

    Args:
        name: One of `NETWORKS`.
        scale: Of the network and of the pairs.
        pairs: Photographs to train on.
        steps: Steps of Adam, one batch each; the loss is L1.
        batch_size: Patches in a batch.
        size: Pixels of a small patch's side.
        learning_rate: Peak of a one-cycle schedule.
        seed: Of the fresh weights and of the patches.
        folder: Where the weights are kept.

    Returns:
        The trained network, in eval mode.
    """
    settings = (steps, batch_size, size, learning_rate, seed, BETAS, CLIP)
    digest = hashlib.sha256(repr(settings).encode())
    for pair in pairs:
        for image in (pair.large, pair.small):
            digest.update(image.numpy().tobytes())
    path = folder / f"{name}-x{scale}-steps{steps}-{digest.hexdigest()[:12]}.safetensors"

    def fit(model: nn.Module) -> None:
        loader = batches_of(pairs, steps, batch_size, size, seed)
        optimizer = torch.optim.Adam(model.parameters(), learning_rate, betas=BETAS)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, steps)
        model.train()
        with bar(True) as shown:
            task = shown.add_task(f"train {name} x{scale}", total=steps)
            for batch in loader:
                loss = l1(model(batch[0]), batch)
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                shown.advance(task)

    return kept(path, lambda: NETWORKS[name](scale), fit, seed=seed)
