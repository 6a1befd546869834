"""Compare plans with the best allocation of Tucker-2, spatial SVD or channel SVD alone.

Every side gets the same exact allocation and all its ranks; the dense layer is always allowed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from torch import nn

import search
import sekron
from baselines import BASELINES
from search.restricted import restricted
from studies.digits import Split, digits
from studies.glyphs import glyphs, trained_resnet20
from studies.networks import resnet20
from studies.training import RUNS, accuracy, trained

N_SCORED = 1000
"""Test images for each accuracy: 32 networks are scored."""

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6)


def main() -> None:
    """Run the study, print the table and write it beside this file."""
    options = _options()
    if options.data == "digits":
        split = digits()
        model = trained("resnet20", resnet20, split.train_images, split.train_labels)
    else:
        split = glyphs()
        model = trained_resnet20(split)
    run = RUNS / f"budgets-{options.data}"
    ours = search.run(
        model, split.test_images[:1], budget=search.Budget(flops=0.5), run=run, measure_seconds=0
    )
    sides = {"sekron": ours}
    for name, template in BASELINES.items():
        sides[name] = restricted(ours, model, template)
    rows = []
    for share in SHARES:
        budget = search.Budget(flops=share)
        for name, side in sides.items():
            try:
                error = side.allocate(budget).loss
            except search.InfeasibleBudget:
                rows.append((share, name, float("nan"), float("nan")))
                continue
            small = side.plan(budget).apply(model)
            sekron.recalibrate(small, split.train_images[:512].split(128))
            rows.append((share, name, error, _score(small, split)))
    frame = pd.DataFrame(rows, columns=["flops", "method", "error", "accuracy"])
    frame.round(4).to_csv(Path(__file__).with_name(f"{options.data}.csv"), index=False)
    dense = _score(model, split)
    print(f"{options.data}, dense accuracy {dense:.4f}; nothing is trained after decomposition")
    print(frame.pivot(index="flops", columns="method")[["error", "accuracy"]].round(3).to_string())
    errors = frame.pivot(index="flops", columns="method", values="error")
    losses = [
        name for name in BASELINES if not (errors["sekron"] <= errors[name].fillna(1e9)).all()
    ]
    print(f"error of sekron at or below each baseline at every budget: {not losses} {losses or ''}")


def _score(model: nn.Module, split: Split) -> float:
    return accuracy(model, split.test_images[:N_SCORED], split.test_labels[:N_SCORED])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.budgets", description=__doc__)
    parser.add_argument("--data", choices=("digits", "glyphs"), default="glyphs")
    return parser.parse_args()


if __name__ == "__main__":
    main()
