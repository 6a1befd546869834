"""What a training has come to: its epochs, its best weights, and where it can go on from."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sekron.forward import one_line
from sekron.network.surgery import structures_of

if TYPE_CHECKING:
    from accelerate import Accelerator

POINTER = "training.json"
"""Names the state that is whole; it is replaced after a new one was written."""

TENSORS = "best.safetensors"
"""In a state, what accelerate does not keep: the best weights and the order of the batches.

It would keep them too, but in a pickle that it reads without looking."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the training data.

    Attributes:
        epoch: Its number, from 1; 0 is the network before training.
        loss: Mean over its steps, decay apart.
        score: Of the network after it; NaN where nothing scores.
    """

    epoch: int
    loss: float
    score: float


class TrainingRecord:
    """Keeps the best weights in memory, and everything in a folder if there is one.

    Args:
        accelerator: Has prepared the network and the optimizer; they are filled too.
        schedule: Of the learning rate; kept too.
        orders: Generators that the batches are shuffled with; kept too.
        model: Its structures and shapes identify the training.
        settings: Identify it too.
        folder: Of an earlier call, which is gone on with, or to be made.

    Raises:
        ValueError: If the folder holds another training, or is damaged.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        schedule: LRScheduler,
        orders: Sequence[torch.Generator],
        model: nn.Module,
        settings: dict[str, Any],
        folder: str | Path | None,
    ) -> None:
        self.epochs: list[Epoch] = []
        self.best = _copied(model)
        self._accelerator, self._schedule, self._orders = accelerator, schedule, orders
        structures = {name: str(structure) for name, structure in structures_of(model).items()}
        shapes = {name: list(tensor.shape) for name, tensor in self.best.items()}
        self._identity = json.dumps(
            {"settings": settings, "structures": structures, "shapes": shapes}
        )
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._resume(self._folder)

    @property
    def last(self) -> int:
        """The number of the last epoch."""
        return self.epochs[-1].epoch

    def add(self, epoch: Epoch, model: nn.Module) -> None:
        """Take an epoch in; its weights are the best if none scored more, or nothing scores."""
        known = [e.score for e in self.epochs if not math.isnan(e.score)]
        if not known or epoch.score > max(known):
            self.best = _copied(model)
        self.epochs.append(epoch)
        if self._folder is not None:
            self._save(self._folder)

    def _save(self, folder: Path) -> None:
        own = self._accelerator
        current = folder / f"epoch-{self.last}"
        own.save_state(str(current))
        own.wait_for_everyone()
        if own.is_main_process:
            orders = {f"order.{i}": order.get_state() for i, order in enumerate(self._orders)}
            best = {f"best.{name}": tensor for name, tensor in self.best.items()}
            save_file(best | orders, str(current / TENSORS))
            known = {
                "identity": self._identity,
                "state": current.name,
                "epochs": [asdict(epoch) for epoch in self.epochs],
                "schedule": self._schedule.state_dict(),
            }
            partial = folder / f"{POINTER}.partial"
            partial.write_text(json.dumps(known))
            partial.replace(folder / POINTER)
            for other in folder.glob("epoch-*"):
                if other != current:
                    shutil.rmtree(other)
        own.wait_for_everyone()

    def _resume(self, folder: Path) -> None:
        pointer = folder / POINTER
        if not pointer.exists():
            return
        try:
            known = json.loads(pointer.read_text())
            identity, state = known["identity"], folder / known["state"]
            epochs = [Epoch(**epoch) for epoch in known["epochs"]]
            schedule = dict(known["schedule"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{pointer} is damaged: {error}; delete the folder.") from error
        if identity != self._identity:
            raise ValueError(
                f"{folder} must hold a training of this network with these settings, but "
                "holds another; take another folder."
            )
        try:
            tensors = load_file(str(state / TENSORS))
            self.best = {name: tensors[f"best.{name}"] for name in self.best}
            self._accelerator.load_state(str(state))
            for i, order in enumerate(self._orders):
                order.set_state(tensors[f"order.{i}"])
        except Exception as error:  # whatever reading a file of another kind raises
            raise ValueError(
                f"{state} is damaged: {one_line(error)}; delete the folder."
            ) from error
        self._schedule.load_state_dict(schedule)
        self.epochs = epochs


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
