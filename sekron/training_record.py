"""What a training has come to: its epochs, its best weights, and where it can go on from."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sekron.surgery import structures_of

if TYPE_CHECKING:
    from accelerate import Accelerator

POINTER = "training.json"
"""Names the state that is whole; it is replaced after a new one was written."""


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
    """Keeps the best weights in memory, and everything in a folder if there is one."""

    def __init__(self, accelerator: Accelerator, identity: str, folder: Path | None) -> None:
        self.epochs: list[Epoch] = []
        self.best: dict[str, Tensor] = {}
        self._accelerator = accelerator
        self._identity = identity
        self._folder = folder

    @classmethod
    def open(
        cls,
        accelerator: Accelerator,
        schedule: Any,
        model: nn.Module,
        settings: dict[str, Any],
        folder: str | Path | None,
    ) -> TrainingRecord:
        """Start a record, or go on with what a folder holds.

        Args:
            accelerator: Has prepared the network and the optimizer; they are filled too.
            schedule: Of the learning rate; kept too.
            model: Its structures identify the training.
            settings: Identify it too.
            folder: Of an earlier call, or to be made.

        Raises:
            ValueError: If the folder holds another training, or is damaged.
        """
        structures = {name: str(structure) for name, structure in structures_of(model).items()}
        identity = json.dumps({"settings": settings, "structures": structures})
        record = cls(accelerator, identity, None if folder is None else Path(folder))
        record.best = _copied(model)
        accelerator.register_for_checkpointing(schedule, record)
        if record._folder is not None:
            record._resume(record._folder)
        return record

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

    def state_dict(self) -> dict[str, Any]:
        """Return what accelerate keeps beside the weights."""
        return {"epochs": [asdict(epoch) for epoch in self.epochs], "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take in what `state_dict` returned."""
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]
        self.best = state["best"]

    def _save(self, folder: Path) -> None:
        own = self._accelerator
        current = folder / f"epoch-{self.last}"
        own.save_state(str(current))
        own.wait_for_everyone()
        if own.is_main_process:
            partial = folder / f"{POINTER}.partial"
            partial.write_text(json.dumps({"identity": self._identity, "state": current.name}))
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
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{pointer} is damaged: {error}; delete the folder.") from error
        if identity != self._identity:
            raise ValueError(
                f"{folder} must hold a training of this network with these settings, but "
                "holds another; take another folder."
            )
        self._accelerator.load_state(str(state))


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
