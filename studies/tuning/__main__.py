"""Accuracy of compressed networks: as decomposed, batch norm re-estimated, tuned; no labels."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from torch import nn

import search
import sekron
from studies.glyphs import glyphs, trained_resnet
from studies.training import RUNS, accuracy

N_IMAGES = 1024
"""Unlabelled training images that everything here may look at."""


def main() -> None:
    """Run the study, print the table and write it beside this file."""
    options = _options()
    split = glyphs()
    model = trained_resnet(split)
    batches = split.train_images[:N_IMAGES].split(64)

    def score(network: nn.Module) -> float:
        return accuracy(network, split.test_images, split.test_labels)

    result = search.run(
        model,
        split.test_images[:1],
        budget=search.Budget(flops=0.25),
        run=RUNS / "tuning",
        measure_seconds=0,
        calibration=batches,
    )
    rows = []
    for resource in ("flops", "params"):
        for share in options.shares:
            budget = search.Budget(**{resource: share})
            small = result.plan(budget).apply(model)
            decomposed = score(small)
            sekron.recalibrate(small, batches)
            recalibrated = score(small)
            start = time.perf_counter()
            misfit = sekron.tune(small, model, batches, steps=options.steps)
            seconds = time.perf_counter() - start
            rows.append((str(budget), decomposed, recalibrated, score(small), misfit, seconds))
            print(*rows[-1])
    columns = ["budget", "decomposed", "recalibrated", "tuned", "misfit", "seconds"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.round(4).to_csv(Path(__file__).with_name("glyphs.csv"), index=False)
    print(f"dense accuracy {score(model):.4f}; {options.steps} steps of 64 images")
    print(frame.to_string(index=False, float_format="{:.4f}".format))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.tuning", description=__doc__)
    parser.add_argument("--shares", type=float, nargs="+", default=(0.1, 0.15, 0.25))
    parser.add_argument("--steps", type=int, default=600)
    return parser.parse_args()


if __name__ == "__main__":
    main()
