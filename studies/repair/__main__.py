"""Compare repairs of compressed networks on unlabelled images: accuracy lost, and seconds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from sekron.calibration.moments import moments
from sekron.layers.factorized import Factorized
from sekron.network.surgery import structures_of, weight_of
from sekron.training.factor_fit import fit_factors, metric_of_fit
from sekron.training.refit import LARGEST_PATCH
from studies.digits import Split
from studies.glyphs import glyphs, trained_resnet
from studies.training import RUNS, accuracy

N_IMAGES = 1024
"""Unlabelled training images that the search and the repairs look at."""

BUDGETS = [search.Budget(**{r: s}) for r in ("flops", "params") for s in (0.1, 0.15, 0.25)]
COLUMNS = (
    *("network", "budget", "dense"),
    *("decomposed", "batch_norm", "each_alone", "repaired"),
    "seconds",
)


def main() -> None:
    """Run the study, print its table and write it beside this file."""
    options = _options()
    torch.set_num_threads(options.threads)
    split = glyphs()
    rows = []
    for depth in options.depths:
        model = trained_resnet(split, depth)
        for row in _repaired(f"resnet{depth}", model, split):
            rows.append(row)
            frame = pd.DataFrame(rows, columns=list(COLUMNS))
            frame.round(4).to_csv(Path(__file__).with_name("glyphs.csv"), index=False)
            print(*row, flush=True)
    lost = frame.assign(
        **{name: 100 * (frame["dense"] - frame[name]) for name in COLUMNS[3:7]}
    ).drop(columns=["network", "dense"])
    print("\npoints of accuracy lost, the mean over the networks")
    print(lost.groupby("budget", sort=False).mean().round(1).to_string())


def _repaired(name: str, model: nn.Module, split: Split) -> Iterator[tuple[object, ...]]:
    """Yield a row for every budget: one plan, left as it is and repaired in two ways."""
    images = split.train_images[:N_IMAGES].split(128)
    result = search.run(
        model,
        split.test_images[:1],
        budget=BUDGETS[2],
        run=RUNS / f"repair-{name}",
        measure_seconds=0,
        calibration=images,
    )

    def score(network: nn.Module) -> float:
        return accuracy(network, split.test_images, split.test_labels)

    for budget in BUDGETS:
        networks = [result.plan(budget).apply(model) for _ in range(4)]
        _, renormed, alone, repaired = networks
        sekron.recalibrate(renormed, images)
        _fit_alone(alone, model, images)
        seconds = _timed(repaired, model, images)
        yield name, str(budget), *map(score, (model, *networks)), seconds


def _fit_alone(small: nn.Module, model: nn.Module, images: tuple[Tensor, ...]) -> None:
    """Fit each layer to its own weight, and no layer to what it gets: half of a repair."""
    names = list(structures_of(small))
    for name, of_layer in moments(model, names, images, largest_patch=LARGEST_PATCH).items():
        layer = small.get_submodule(name)
        assert isinstance(layer, Factorized)
        fit_factors(layer, weight_of(model, name), metric_of_fit(of_layer), 100)
    sekron.recalibrate(small, images)


def _timed(small: nn.Module, model: nn.Module, images: tuple[Tensor, ...]) -> float:
    start = time.perf_counter()
    print(sekron.repair(small, model, images, progress=False))
    return time.perf_counter() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.repair", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=(20, 32))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
