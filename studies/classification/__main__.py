"""Compress classifiers at equal budgets, and give every one the same ladder of repairs.

Decomposed, batch norm re-estimated, tuned on unlabelled images, fine-tuned on labels.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import baselines
import search
import sekron
from baselines.contenders import Decomposed, Pruned
from sekron.profiling import count_flops, profile
from studies.cifar import cifar10, cifar100
from studies.digits import Split
from studies.glyphs import glyphs
from studies.networks import resnet
from studies.training import RUNS, accuracy, trained

BUDGETS = (search.Budget(flops=0.5), search.Budget(params=0.2))
METHODS = ("gkpd", "tensor_train", "tensor_ring", "cp", "tucker2")
OURS, FUNNEL, PRUNING = "sekron", "funnel", "pruning"
N_UNLABELLED = 1024
"""Training images that may be looked at before fine-tuning."""

BATCH = 64


@dataclass(frozen=True)
class Task:
    """A trained network and what it was trained on.

    Attributes:
        name: Of the network.
        model: Trained.
        split: Its data.
        epochs: It was trained for.
    """

    name: str
    model: nn.Module
    split: Split
    epochs: int

    @property
    def unlabelled(self) -> tuple[Tensor, ...]:
        """Batches of images."""
        return self.split.train_images[:N_UNLABELLED].split(BATCH)

    def score(self, network: nn.Module) -> float:
        """Return the accuracy on the test images."""
        return accuracy(network, self.split.test_images, self.split.test_labels)

    def loader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return the labelled training images, shuffled alike for everyone."""
        data = TensorDataset(self.split.train_images, self.split.train_labels)
        order = torch.Generator().manual_seed(0)
        return DataLoader(data, BATCH, shuffle=True, generator=order)


def main() -> None:
    """Run the study; every finished row is kept, and not computed again."""
    options = _options()
    split = _split(options)
    path = Path(__file__).with_name(f"{options.data}.csv")
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for depth in options.depths:
        task = _task(depth, split, options)
        print(f"resnet{depth}, dense accuracy {task.score(task.model):.4f}")
        for budget in BUDGETS:
            known = set() if frame.empty else set(frame.set_index(["network", "budget"]).index)
            done = (
                set(frame[(frame.network == task.name) & (frame.budget == str(budget))].method)
                if (task.name, str(budget)) in known
                else set()
            )
            for method, network in _sides(task, budget, done, options):
                row = {"network": task.name, "budget": str(budget), "method": method}
                row |= _ladder(task, network, options)
                print(row)
                frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True)
                frame.round(4).to_csv(path, index=False)
    print(frame.to_string(index=False, float_format="{:.3f}".format))


def _sides(
    task: Task, budget: search.Budget, done: set[str], options: argparse.Namespace
) -> Iterator[tuple[str, nn.Module]]:
    """Yield every way to compress the network, but for those that are done."""
    example = task.split.test_images[:1]
    measured = profile(task.model, example)
    if OURS not in done:
        result = search.run(
            task.model,
            example,
            budget=budget,
            run=RUNS / f"classification-{task.name}",
            measure_seconds=0,
            calibration=task.unlabelled,
        )
        yield OURS, result.best.apply(task.model)
    if FUNNEL not in done and budget.params is None:
        recipe = sekron.Recipe(epochs=options.funnel_epochs)
        funnel = search.funnel(
            task.model, task.loader(), example, budget=budget, dense=task.model, recipe=recipe
        )
        yield FUNNEL, funnel.network
    for name in METHODS:
        if name not in done:
            method = baselines.METHODS[name]
            tables = baselines.candidates(task.model, measured, method)
            entry = Decomposed(task.model, measured, tables, method.factorize).enter(
                budget, "exact"
            )
            if entry is not None:
                yield name, entry.network
    if PRUNING not in done:
        entry = Pruned(task.model, example, measured).enter(budget, "")
        if entry is not None:
            yield PRUNING, entry.network


def _ladder(task: Task, network: nn.Module, options: argparse.Namespace) -> dict[str, object]:
    """Return the accuracy on every rung, and what the network costs."""
    flops, _ = count_flops(network, (task.split.test_images[:1],))
    row: dict[str, object] = {
        "flops": flops / count_flops(task.model, (task.split.test_images[:1],))[0],
        "params": _n_params(network) / _n_params(task.model),
        "dense": task.score(task.model),
        "decomposed": task.score(network),
    }
    sekron.recalibrate(network, task.unlabelled)
    row["recalibrated"] = task.score(network)
    start = time.perf_counter()
    if sekron.surgery.structures_of(network):
        sekron.tune(network, task.model, task.unlabelled, steps=options.steps)
        row["tuned"] = task.score(network)
    tuned = time.perf_counter()
    recipe = sekron.Recipe(epochs=options.epochs)
    sekron.finetune(network, task.loader(), dense=task.model, recipe=recipe)
    row["finetuned"] = task.score(network)
    row["tune_seconds"] = tuned - start
    row["finetune_seconds"] = time.perf_counter() - tuned
    return row


def _n_params(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _split(options: argparse.Namespace) -> Split:
    if options.data == "glyphs":
        return glyphs()
    return {"cifar10": cifar10, "cifar100": cifar100}[options.data](options.path)


def _task(depth: int, split: Split, options: argparse.Namespace) -> Task:
    n_channels, n_classes = split.train_images.shape[1], int(split.train_labels.max()) + 1
    name = f"resnet{depth}-{options.data}"
    make = partial(resnet, depth, n_classes, n_channels)
    model = trained(name, make, split.train_images, split.train_labels, epochs=options.dense_epochs)
    return Task(name, model, split, options.dense_epochs)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.classification", description=__doc__)
    parser.add_argument("--data", choices=("glyphs", "cifar10", "cifar100"), default="glyphs")
    parser.add_argument("--path", default="", help="folder of CIFAR in its binary format")
    parser.add_argument("--depths", type=int, nargs="+", default=(20, 32))
    parser.add_argument("--dense-epochs", type=int, default=12)
    parser.add_argument("--steps", type=int, default=150, help="of tune")
    parser.add_argument("--epochs", type=int, default=2, help="of fine-tuning")
    parser.add_argument("--funnel-epochs", type=int, default=3)
    return parser.parse_args()


if __name__ == "__main__":
    main()
