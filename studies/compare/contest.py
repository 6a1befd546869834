"""What the two commands of this study share: the network, the two searches, and the comparison."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

import baselines
import search
from sekron.budget import RESOURCES
from studies.cifar import cifar10, cifar100
from studies.compare.apart import CALIBRATED, OURS, told_apart
from studies.digits import Split, digits
from studies.glyphs import glyphs, trained_resnet
from studies.networks import resnet20
from studies.training import RUNS, accuracy, trained

N_SCORED = 1000
"""Test images for each accuracy: some four hundred networks are scored, twice."""

RULES = ("exact", "minimax")
"""For ranks across layers; `uniform` was never and `greedy` hardly ever the best of a rival's."""


@dataclass(frozen=True, eq=False, slots=True)
class Contest:
    """A trained network, and our two searches of it.

    Attributes:
        run: Folder of the searches and of the rows that are finished.
        split: Images; some that are scored, and unlabelled ones that every side may look at.
        model: The dense network.
        ours: The search by the plain error.
        calibrated: The search in the metric of the unlabelled images.
    """

    run: Path
    split: Split
    model: nn.Module
    ours: search.SearchResult
    calibrated: search.SearchResult

    def compare(
        self,
        budgets: Sequence[search.Budget],
        output: str,
        *,
        methods: Sequence[str] | None = None,
        repair: bool = False,
    ) -> pd.DataFrame:
        """Compare some rivals, or all; ours take part where it is all or none of them.

        Args:
            budgets: Of FLOPs or parameters.
            output: Name of the file of rows in the run folder.
            methods: Names of rivals; None for all.
            repair: Whether the best of each is repaired.
        """
        return baselines.compare(
            self.model,
            self.split.test_images[:1],
            budgets,
            methods=methods,
            allocations=RULES,
            tables=None if methods else {OURS: self.ours.tables},
            plans=None if methods else {CALIBRATED: self.calibrated.plan},
            metric=self.calibrated.metrics,
            score=self.score,
            calibration=unlabelled(self.split),
            repair=repair,
            output=self.run / output,
        )

    def score(self, model: nn.Module) -> float:
        """Return the accuracy on some test images."""
        return accuracy(model, self.split.test_images[:N_SCORED], self.split.test_labels[:N_SCORED])


def contest(data: str, path: str) -> Contest:
    """Train and search, or load what was trained and searched before.

    Args:
        data: Name of the images.
        path: Folder of CIFAR.
    """
    split, model = _trained(data, path)
    run = RUNS / f"compare-{data}"
    ours = _searched(model, split, run, calibration=None)
    calibrated = _searched(model, split, run / "calibrated", calibration=unlabelled(split))
    return Contest(run, split, model, ours, calibrated)


def unlabelled(split: Split) -> tuple[Tensor, ...]:
    """Return the images without labels that every side may look at."""
    return split.train_images[:1024].split(128)


def budgets_of(resources: Sequence[str], shares: Sequence[float]) -> list[search.Budget]:
    """Return a budget for every resource and share."""
    return [search.Budget(**{name: share}) for name in resources for share in shares]


def options(name: str, description: str | None, shares: Sequence[float]) -> argparse.Namespace:
    """Parse the options of a command of this study.

    Args:
        name: Of its module.
        description: What it does.
        shares: Those of the budgets by default.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=description)
    parser.add_argument(
        "--data", choices=("digits", "glyphs", "cifar10", "cifar100"), default="glyphs"
    )
    parser.add_argument("--path", default="", help="folder of CIFAR in its binary format")
    parser.add_argument("--shares", type=float, nargs="+", default=shares)
    parser.add_argument("--resources", nargs="+", choices=RESOURCES, default=RESOURCES)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def write(frame: pd.DataFrame, name: str) -> None:
    """Write rows beside this file."""
    frame.round(4).to_csv(Path(__file__).with_name(name), index=False)


def print_apart(frame: pd.DataFrame, column: str, budgets: Sequence[search.Budget]) -> None:
    """Print a score by structures and norms."""
    print(f"\n{column} in percent: what the structures give, and what the metric gives")
    print((100 * told_apart(frame, column, budgets)).round(1).to_string())


def _searched(
    model: nn.Module, split: Split, run: Path, calibration: tuple[Tensor, ...] | None
) -> search.SearchResult:
    return search.run(
        model,
        split.test_images[:1],
        budget=search.Budget(flops=0.25),
        run=run,
        measure_seconds=0,
        calibration=calibration,
    )


def _trained(data: str, path: str) -> tuple[Split, nn.Module]:
    if data == "glyphs":
        split = glyphs()
        return split, trained_resnet(split)
    split = digits() if data == "digits" else {"cifar10": cifar10, "cifar100": cifar100}[data](path)
    n_channels, n_classes = split.train_images.shape[1], int(split.train_labels.max()) + 1
    name = "resnet20" if data == "digits" else f"resnet20-{data}"
    make = partial(resnet20, n_classes, n_channels)
    return split, trained(name, make, split.train_images, split.train_labels)
