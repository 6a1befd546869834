"""Train a compressed network further, on labels, on the dense network's outputs, or on both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sekron.calibration.output_kind import Output
from sekron.forward.evaluation import Score, casts_anew, evaluating, must_allow_gradients
from sekron.layers.factorized import Factorized
from sekron.network.copying import copy_of
from sekron.network.precision import check_trainable
from sekron.network.weights import load_weights
from sekron.progress import bar
from sekron.training.identity import identity_of
from sekron.training.loss import Loss, TaskLoss
from sekron.training.recipe import DEFAULT_RECIPE, Recipe
from sekron.training.record import Epoch, TrainingRecord
from sekron.training.regularizer import Regularizer

if TYPE_CHECKING:
    from accelerate import Accelerator

MOMENTUM = 0.9

WRAPPED = ("forward", "_original_forward")
"""What accelerate puts into a network to run it in another precision, and leaves there."""

Loader = DataLoader[Any] | Sequence[Any]
"""Batches that are there for every epoch."""


def finetune(
    model: nn.Module,
    loader: Loader,
    *,
    dense: nn.Module | None = None,
    score: Score | None = None,
    recipe: Recipe = DEFAULT_RECIPE,
    folder: str | Path | None = None,
    output: Output | None = None,
    loss: TaskLoss | None = None,
    progress: bool = True,
) -> list[Epoch]:
    """Train a compressed network, in place, with momentum and a cosine schedule.

    Of a network in training mode, modules that are not, such as frozen batch norm, stay so.

    It runs on one device, or unchanged under `accelerate launch` on several processes or
    machines, each of which gets its share of every epoch.

    Args:
        model: From `Plan.apply`; any other network works too. Afterwards it has the weights that
            scored best, those it came with included, or the last where nothing scores.
        loader: Batches `(images, labels)`, also in a list where one process trains; with
            `distillation=1` images alone will do. A network of several inputs takes
            `((input, …), labels)` or `(input, …, labels)`, one that names them
            `({"name": input, …}, labels)`.
        dense: Teaches, where given; not modified.
        score: Rates the network after every epoch, higher is better; called in evaluation mode,
            on the device that trains.
        recipe: How to train.
        folder: Where the state is kept after every epoch; a later call with it goes on from there,
            with a warning if the weights are none that a training there began with or left.
        output: What the dense network puts out, and so how it teaches: `logits`, `values`, or a
            divergence of two outputs; default by what the outputs look like.
        loss: What is learnt from the batches, beside the dense network: a function of what the
            network puts out and the batch, which returns a scalar tensor; default the
            cross-entropy of the labels.
        progress: Whether to show a progress bar on stderr.

    Returns:
        One entry per epoch, those of earlier calls on the same folder included; epoch 0 is the
        network as it came.

    Raises:
        ImportError: Without the package accelerate.
        ValueError: If there is nothing to learn from, the loader has no length, or is no
            `DataLoader` where several processes train, labels are not classes of the network, the
            folder holds another training, or the loss is not finite; the network then has the
            weights of the best epoch so far.

    Reference:
        Hinton et al., arXiv 1503.02531, for the distillation; Khodak et al., Initialization and
        regularization of factorized neural layers, arXiv 2105.01029, for the decay of products.
    """
    return fit(model, loader, dense, score, recipe, folder, output, progress, task_loss=loss)


def fit(
    model: nn.Module,
    loader: Loader,
    dense: nn.Module | None,
    score: Score | None,
    recipe: Recipe,
    folder: str | Path | None,
    output: Output | None,
    progress: bool,
    regularizer: Regularizer | None = None,
    task_loss: TaskLoss | None = None,
    source: nn.Module | None = None,
) -> list[Epoch]:
    """Train; what `finetune` does, with something else on top, or weights made from a `source`."""
    accelerator = _accelerator(recipe)
    n_batches, orders = _n_batches(loader, accelerator.num_processes), _orders(loader)
    frozen = _frozen(model)
    with torch.enable_grad(), casts_anew(), _restored(model):
        groups = _groups(model, recipe, regularizer)
        clipped = [p for group in groups[:2] for p in group["params"]]
        optimizer = torch.optim.SGD(groups, recipe.learning_rate, MOMENTUM, nesterov=True)
        network, prepared, loader = accelerator.prepare(model, optimizer, loader)
        total = recipe.epochs * len(loader)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
        identity = identity_of(
            model, dense, score, recipe, output, task_loss, n_batches, regularizer
        )
        teacher = None if dense is None else copy_of(dense).to(accelerator.device)
        loss_of = Loss(teacher, recipe, output, task_loss)
        record = TrainingRecord(accelerator, schedule, orders, model, source, identity, folder)
        if not record.epochs:
            record.add(Epoch(0, math.nan, _scored(model, score)), model)
        try:
            with bar(progress and accelerator.is_main_process) as shown:
                task = shown.add_task("train", total=total)
                for number in range(record.last + 1, recipe.epochs + 1):
                    done = (number - 1) * len(loader)
                    shown.update(task, completed=done, description=f"epoch {number}")
                    _train(model, frozen)
                    losses = []
                    for batch in loader:
                        loss = loss_of(network, _moved(batch, accelerator.device))
                        losses.append(float(accelerator.reduce(loss.detach(), "mean")))
                        _check("loss", losses[-1], len(losses), number)
                        if recipe.decay > 0:
                            loss = loss + recipe.decay / 2 * _products(model)
                        if regularizer is not None:
                            loss = loss + regularizer.penalty((done + len(losses)) / total)
                        optimizer.zero_grad()
                        accelerator.backward(loss)
                        norm = accelerator.clip_grad_norm_(clipped, recipe.clip)
                        # A scaler skips such steps itself; DeepSpeed does not always tell.
                        if norm is not None and accelerator.scaler is None:
                            _check("gradient", float(norm), len(losses), number)
                        prepared.step()
                        schedule.step()
                        if regularizer is not None:
                            regularizer.after_step()
                        shown.advance(task)
                    if not losses:
                        raise ValueError(f"`loader` must hold batches, got none in epoch {number}.")
                    mean = sum(losses) / len(losses)
                    record.add(Epoch(number, mean, _scored(model, score)), model)
        finally:
            load_weights(model, record.best, "the record of the training")
            optimizer.zero_grad()
            accelerator.free_memory()
    return record.epochs


def _accelerator(recipe: Recipe) -> Accelerator:
    try:
        from accelerate import Accelerator  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ImportError(
            "fine-tuning needs the package accelerate: pip install 'sekron[finetune]'."
        ) from error
    try:
        return Accelerator(mixed_precision=recipe.mixed_precision)
    except ValueError as error:
        raise ValueError(
            "`mixed_precision` must stay what it was in this process's first training, got "
            f"{recipe.mixed_precision!r}; start another process."
        ) from error


def _n_batches(loader: Loader, n_processes: int) -> int:
    # The iterator of a DataLoader has a length too, but is at its end after one epoch.
    if isinstance(loader, Iterator) or not hasattr(loader, "__len__"):
        raise ValueError(
            "`loader` must have a length and be there for every epoch, like a DataLoader, got "
            f"{type(loader).__name__}."
        )
    if n_processes > 1 and not isinstance(loader, DataLoader):
        raise ValueError(
            f"`loader` must be a DataLoader where {n_processes} processes train, so that each gets "
            f"its share, got {type(loader).__name__}."
        )
    if len(loader) == 0:
        raise ValueError("`loader` must hold at least one batch, got none.")
    return len(loader)


def _moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on a device, where accelerate brings only those of a `DataLoader` itself."""
    from accelerate.utils import send_to_device  # noqa: PLC0415  an extra

    return send_to_device(batch, device)


def _orders(loader: Loader) -> list[torch.Generator]:
    """Return the generators of its own that a loader shuffles with."""
    holders = (loader, getattr(loader, "sampler", None))
    found = [getattr(holder, "generator", None) for holder in holders]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


def _groups(
    model: nn.Module, recipe: Recipe, regularizer: Regularizer | None
) -> list[dict[str, Any]]:
    """Return the parameters to train: plain weights, which are decayed one by one, and others."""
    must_allow_gradients(model)
    check_trainable(model)
    products = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, Factorized)
        for parameter in module.parameters()
    }
    own = {id(p) for p in regularizer.parameters} if regularizer is not None else set()
    wanted = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    if not wanted:
        raise ValueError("the network must have parameters that want gradients, but has none.")
    plain = [p for p in wanted if p.dim() > 1 and id(p) not in products]
    others = [p for p in wanted if p.dim() <= 1 or id(p) in products]
    groups: list[dict[str, Any]] = [
        {"params": plain, "weight_decay": recipe.decay},
        {"params": others},
    ]
    if regularizer is not None:
        rate = regularizer.rate * recipe.learning_rate
        groups.append({"params": regularizer.parameters, "lr": rate})
    return groups


def _products(model: nn.Module) -> Tensor | float:
    """Return the squared norms of all factorized weights."""
    layers = (module for module in model.modules() if isinstance(module, Factorized))
    return sum(layer.dense_weight().square().sum() for layer in layers)


def _check(what: str, value: float, step: int, epoch: int) -> None:
    if not math.isfinite(value):
        raise ValueError(
            f"the {what} must be finite, got {value} at step {step} of epoch {epoch}; take a "
            "smaller `learning_rate`. The network has its best weights from before."
        )


def _scored(model: nn.Module, score: Score | None) -> float:
    """Score in every process, and let the first decide: what is best must be so for all."""
    if score is None:
        return math.nan
    with evaluating(model):
        value = float(score(model))
    from accelerate.utils import broadcast_object_list  # noqa: PLC0415  an extra

    return float(broadcast_object_list([value])[0])


def _frozen(model: nn.Module) -> list[nn.Module]:
    """Return what does not train in a network that does, since it was told not to."""
    return [module for module in model.modules() if model.training and not module.training]


def _train(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    model.train()
    for module in frozen:
        module.training = False


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Bring the device, the train flags and the way to be called back."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    flags = [(module, module.training) for module in model.modules()]
    called = {name: vars(model)[name] for name in WRAPPED if name in vars(model)}
    try:
        yield
    finally:
        for name in WRAPPED:
            vars(model).pop(name, None)
        vars(model).update(called)
        model.to(device)
        for module, training in flags:
            module.training = training
