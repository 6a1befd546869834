"""What a training has come to: its epochs, its best weights, and where it can go on from."""

from __future__ import annotations

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from sekron.forward.evaluation import one_line
from sekron.network.digest import digest_of
from sekron.network.weights import load_weights, must_keep_tensors
from sekron.records import Count, check_no_link, decode, encode, read_text, unwritten, write_text
from sekron.training.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from accelerate import Accelerator

FORMAT, VERSION = "sekron.training", 1

POINTER = "training.json"
"""Names the state that is whole; it is replaced after a new one was written."""

TENSORS = "best.safetensors"
"""In a state, what accelerate does not keep: the best weights and the order of the batches.

It would keep them too, but in a pickle that it reads without looking."""

RANDOM = "random-{}.safetensors"
"""In a state, the random generators of each process; accelerate's own file of them is a pickle,
which it passes over without a word when it is damaged."""


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


Digest = Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")]


class _Epoch(msgspec.Struct):
    epoch: Count
    loss: float | None
    score: float | None


class _Training(msgspec.Struct):
    identity: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    state: Annotated[str, Meta(pattern="^epoch-[0-9]{1,9}-[0-9a-f]{8}$")]
    epochs: Annotated[list[_Epoch], Meta(min_length=1)]
    schedule: dict[str, int | float | bool | str | list[float] | None]
    start: Digest = ""  # which earlier releases did not tell
    best: Digest = ""


class TrainingRecord:
    """Keeps the best weights in memory, and everything in a folder if there is one.

    Args:
        accelerator: Has prepared the network and the optimizer; they are filled too.
        schedule: Of the learning rate; kept too.
        orders: Generators that the batches are shuffled with; kept too.
        model: What is trained.
        source: The network that its weights were computed from; None for no other.
        identity: Digest of what the training is of.
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
        source: nn.Module | None,
        identity: str,
        folder: str | Path | None,
    ) -> None:
        self.epochs: list[Epoch] = []
        self.best = _copied(model)
        self._accelerator, self._schedule, self._orders = accelerator, schedule, orders
        self._identity = identity
        self._state = ""  # name of the state in the folder that is whole
        self._folder = None if folder is None else Path(folder)
        self._start = ""  # digest of the weights that it began with
        if self._folder is not None:
            must_keep_tensors(model, "train without `folder`")
            self._start = digest_of((model if source is None else source).state_dict())
            self._resume(self._folder, model)

    @property
    def last(self) -> int:
        """The number of the last epoch."""
        return self.epochs[-1].epoch

    def add(self, epoch: Epoch, model: nn.Module) -> None:
        """Take an epoch in; its weights are the best if none scored more, or nothing scores.

        Raises:
            OSError: If the disk refuses; the message names the state.
            ValueError: If it is a link that stands where the state would be written.
        """
        scores = [e.score for e in self.epochs if not math.isnan(e.score)]
        if not scores or epoch.score > max(scores):
            self.best = _copied(model)
        self.epochs.append(epoch)
        if self._folder is not None:
            self._save(self._folder)

    def _save(self, folder: Path) -> None:
        accelerator = self._accelerator
        # Named by the training too, so that it is nobody else's folder that is written to.
        current = folder / f"epoch-{self.last}-{self._identity[:8]}"
        for path in (current, *current.rglob("*")):
            check_no_link(path)
        try:
            accelerator.save_state(str(current))
            index = accelerator.process_index
            (current / f"random_states_{index}.pkl").unlink(missing_ok=True)
            save_file(random_state(), current / RANDOM.format(index))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                orders = {f"order.{i}": order.get_state() for i, order in enumerate(self._orders)}
                best = {f"best.{name}": tensor for name, tensor in self.best.items()}
                save_file(best | orders, current / TENSORS)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise unwritten(current, error) from error
        if accelerator.is_main_process:
            write_text(folder / POINTER, self._pointer(current.name))
            if self._state and self._state != current.name:
                shutil.rmtree(folder / self._state)
        self._state = current.name
        accelerator.wait_for_everyone()

    def _pointer(self, state: str) -> str:
        epochs = [
            _Epoch(epoch.epoch, _finite(epoch.loss), _finite(epoch.score)) for epoch in self.epochs
        ]
        schedule = self._schedule.state_dict()
        best = digest_of(self.best)
        record = _Training(self._identity, state, epochs, schedule, self._start, best)
        return encode(record, FORMAT, VERSION)

    def _resume(self, folder: Path, model: nn.Module) -> None:
        pointer = folder / POINTER
        if not pointer.exists():
            return
        record = decode(read_text(pointer), _Training, FORMAT, (VERSION,), str(pointer))
        if record.identity != self._identity:
            raise ValueError(
                f"{folder} must hold a training of this network with these settings, but "
                "holds another; take another folder."
            )
        own_weights = {self._start, digest_of(self.best)}
        if record.start and own_weights.isdisjoint({record.start, record.best}):
            # No error: what computes them anew may round otherwise, on a GPU each time.
            warnings.warn(
                f"the training in {folder} began with other weights than these, and goes on from "
                "its own; take another folder for a training of these.",
                stacklevel=5,
            )
        if not _is_schedule(record.schedule, self._schedule):
            raise ValueError(f"{pointer} is damaged: its schedule is none; delete the folder.")
        numbers = [epoch.epoch for epoch in record.epochs]
        if numbers != list(range(len(numbers))) or numbers[-1] != _epoch_of(record.state):
            raise ValueError(f"{pointer} is damaged: its epochs are none; delete the folder.")
        state, own = folder / record.state, self.best
        try:
            _check_ordinary(state)
            tensors = load_file(state / TENSORS)
            generators = load_file(state / RANDOM.format(self._accelerator.process_index))
            self.best = {
                name: _like(tensor, tensors[f"best.{name}"]) for name, tensor in own.items()
            }
            for file in state.glob("model*.safetensors"):  # which accelerate would cast in silence
                for name, tensor in load_file(file).items():
                    _like(self.best.get(name, tensor), tensor)
            self._accelerator.load_state(str(state))
            for i, order in enumerate(self._orders):
                order.set_state(tensors[f"order.{i}"])
            set_random_state(generators)
        except Exception as error:  # whatever reading a file of another kind raises
            load_weights(model, own, "the network's own weights")
            raise ValueError(
                f"{state} is damaged: {one_line(error)}; delete the folder."
            ) from error
        self._schedule.load_state_dict(record.schedule)
        self._state, self._start = record.state, record.start
        self.epochs = [
            Epoch(epoch.epoch, _number(epoch.loss), _number(epoch.score)) for epoch in record.epochs
        ]


def _is_schedule(state: dict[str, Any], schedule: LRScheduler) -> bool:
    """Whether a state is one that a schedule can be in."""
    fresh = schedule.state_dict()
    constant = ("T_max", "eta_min", "base_lrs")
    if set(state) != set(fresh) or any(state[name] != fresh[name] for name in constant):
        return False
    same = all(type(state[name]) is type(fresh[name]) for name in fresh)
    return same and 0 <= state["last_epoch"] <= fresh["T_max"]


def _check_ordinary(state: Path) -> None:
    """Refuse what is neither file nor folder in a state: a pipe would be waited for."""
    odd = [path.name for path in sorted(state.rglob("*")) if not (path.is_file() or path.is_dir())]
    if odd:
        raise ValueError(f"{odd[0]} must be a file, but is something else")


def _like(own: Tensor, read: Tensor) -> Tensor:
    """Return a tensor that was read, if it is one that could stand in another's place."""
    if (read.shape, read.dtype) != (own.shape, own.dtype):
        raise ValueError(f"{tuple(read.shape)} of {read.dtype} stands for {tuple(own.shape)}")
    return read


def _epoch_of(state: str) -> int:
    """Return the epoch after which a state was written."""
    return int(state.split("-")[1])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
        if isinstance(tensor, Tensor)  # what else a module keeps is its own
    }
