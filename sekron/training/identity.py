"""What tells one training from another: a folder holds one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from torch import Tensor, nn

from sekron.calibration.output_kind import Output
from sekron.forward.evaluation import Score
from sekron.network.digest import digest_of
from sekron.network.surgery import structures_of
from sekron.training.loss import TaskLoss
from sekron.training.recipe import Recipe
from sekron.training.regularizer import Regularizer


def identity_of(
    model: nn.Module,
    dense: nn.Module | None,
    score: Score | None,
    recipe: Recipe,
    output: Output | None,
    task_loss: TaskLoss | None,
    n_batches: int,
    regularizer: Regularizer | None,
) -> str:
    """Return the digest of a training's settings, and of the network's structures and shapes.

    Functions of the user's are not told from one another, nor are weights that a training begins
    with: `TrainingRecord` does that.

    Args:
        model: What is trained.
        dense: What teaches, or None.
        score: What rates the network, or None.
        recipe: How to train.
        output: What the user says of the outputs, or None.
        task_loss: The user's loss, or None.
        n_batches: Of an epoch.
        regularizer: What else the training does, or None.
    """
    settings = asdict(recipe) | {
        "regularizer": regularizer and regularizer.name,
        "taught": None if dense is None else digest_of(dense.state_dict()),
        "scored": score is not None,
        "batches": n_batches,
    }
    if task_loss is not None:
        settings["loss"] = "given"
    if output is not None and dense is not None:
        settings["output"] = output if isinstance(output, str) else "given"
    state = model.state_dict().items()
    record = {
        "settings": settings,
        "structures": {name: str(structure) for name, structure in structures_of(model).items()},
        "shapes": {name: list(part.shape) for name, part in state if isinstance(part, Tensor)},
    }
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
