"""Compare repairs of compressed networks on unlabelled images: accuracy lost, and seconds.

Seconds are of the processor, not of the clock.
"""

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
from studies.digits import Split
from studies.each_alone import fit_each_alone
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
    """Run the study and print its table; rows in the file are not run again."""
    options = _options()
    torch.set_num_threads(options.threads)
    split = glyphs()
    path = options.output
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=list(COLUMNS))
    for depth in options.depths:
        name = f"resnet{depth}"
        known = set(frame.loc[frame["network"] == name, "budget"])
        budgets = [budget for budget in BUDGETS if str(budget) not in known]
        if not budgets:
            continue
        for row in _repaired(name, trained_resnet(split, depth), split, budgets):
            frame.loc[len(frame)] = list(row)
            frame.round(4).to_csv(path, index=False)
            print(*row, flush=True)
    lost = frame.assign(
        **{name: 100 * (frame["dense"] - frame[name]) for name in COLUMNS[3:7]}
    ).drop(columns=["dense"])
    for network, part in [*lost.groupby("network", sort=False), ("the mean", lost)]:
        print(f"\npoints of accuracy lost, {network}")
        means = part.drop(columns="network").groupby("budget", sort=False).mean()
        print(means.round(1).to_string())


def _repaired(
    name: str, model: nn.Module, split: Split, budgets: list[search.Budget]
) -> Iterator[tuple[object, ...]]:
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

    for budget in budgets:
        networks = [result.plan(budget).apply(model) for _ in range(4)]
        _, renormed, alone, repaired = networks
        sekron.recalibrate(renormed, images)
        fit_each_alone(alone, model, images)
        sekron.recalibrate(alone, images)
        seconds = _timed(repaired, model, images)
        yield name, str(budget), *map(score, (model, *networks)), seconds


def _timed(small: nn.Module, model: nn.Module, images: tuple[Tensor, ...]) -> float:
    start, clock = time.process_time(), time.perf_counter()
    outcome = sekron.repair(small, model, images, progress=False)
    print(f"{outcome}; {time.perf_counter() - clock:.0f} s by the clock")
    return time.process_time() - start


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.repair", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=(20, 32))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("glyphs.csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
