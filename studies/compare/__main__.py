"""Compare plans with every rival at its best, at equal FLOPs and at equal parameters.

A rival gets its candidates fitted by TensorLy, and its ranks by each of several rules; of these
the one with the least error counts for the error, the best one for the accuracy.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import pandas as pd
from torch import nn

import baselines
import search
import sekron
from sekron.decomposition.decompose import EXACT
from sekron.decomposition.errors import fitted_error
from studies.cifar import cifar10, cifar100
from studies.digits import Split, digits
from studies.glyphs import glyphs, trained_resnet
from studies.networks import resnet20
from studies.tensorly_time import tensorly_seconds
from studies.training import RUNS, accuracy, trained

N_SCORED = 1000
"""Test images for each accuracy: some four hundred networks are scored, twice."""

SHARES = (0.1, 0.15, 0.25, 0.4, 0.6)
RULES = ("exact", "minimax")
"""For ranks across layers; `uniform` was never and `greedy` hardly ever the best of a rival's."""

OURS, CALIBRATED = "sekron", "sekron calibrated"
"""The search by the plain error, and by the metric of 1,024 unlabelled images."""


def main() -> None:
    """Run the study, print its tables and write all rows beside this file."""
    options = _options()
    split, model = _trained(options.data, options.path)
    example = split.test_images[:1]
    budgets = [search.Budget(flops=s) for s in SHARES] + [search.Budget(params=s) for s in SHARES]
    run = RUNS / f"compare-{options.data}"
    start = time.perf_counter()
    ours = search.run(model, example, budget=budgets[2], run=run, measure_seconds=0)
    for budget in budgets:
        ours.plan(budget)
    seconds = time.perf_counter() - start
    calibrated = search.run(
        model,
        example,
        budget=budgets[2],
        run=run / "calibrated",
        measure_seconds=0,
        calibration=split.train_images[:1024].split(128),
    )
    frame = baselines.compare(
        model,
        example,
        budgets,
        allocations=RULES,
        tables={OURS: ours.tables},
        plans={CALIBRATED: calibrated.plan},
        score=lambda network: _score(network, split),
        calibration=split.train_images[:1024].split(128),
        output=run / "comparison.csv",
    )
    frame.round(4).to_csv(Path(__file__).with_name(f"{options.data}.csv"), index=False)
    print(
        f"{options.data}, dense accuracy {_score(model, split):.4f}; nothing is trained afterwards"
    )
    _print_tables(frame)
    rivals, _ = tensorly_seconds(model, ours.profile)
    print(
        f"the whole search, all ranks and {len(budgets)} budgets: {seconds:.1f} s (from the run "
        f"folder, if it was there); TensorLy, the network once at one set of ranks: "
        + ", ".join(f"{name} {spent:.1f} s" for name, spent in rivals.items())
    )
    _print_refinement(model, ours, budgets)


def _print_tables(frame: pd.DataFrame) -> None:
    """Print, per budget, ours beside the best of every rival's rules for its ranks."""
    ours_exact = frame[(frame["method"] == OURS) & (frame["ranks_by"] == "exact")]
    judged = {"error": ("min", OURS), "score_recalibrated": ("max", CALIBRATED)}
    for column, (best, judged_by) in judged.items():
        table = frame.pivot_table(index="budget", columns="method", values=column, aggfunc=best)
        table[OURS] = ours_exact.set_index("budget")[column]  # the plan that a search returns
        table = table.loc[list(dict.fromkeys(frame["budget"]))]
        rivals = table.drop(columns=[OURS, CALIBRATED], errors="ignore")
        table = table[[name for name in (OURS, CALIBRATED) if name in table]].join(rivals)
        sign = 1 if best == "min" else -1
        holds = sign * table[judged_by] <= (sign * rivals).min(axis=1)
        table["holds"] = holds.map({True: "", False: "lost"})
        print(f"\n{column}, {judged_by} against the best of each rival's: {holds.sum()} of 10 hold")
        print(table.round(3).to_string())


def _print_refinement(
    model: nn.Module, ours: search.SearchResult, budgets: list[search.Budget]
) -> None:
    """Print what block least squares gain on the sequences of three or more factors."""
    print("\nrefine, 10 sweeps, on the layers with three or more factors by truncation")
    rows = []
    for budget in budgets:
        before, after, start, layers = 0.0, 0.0, time.perf_counter(), 0
        for name, structure in ours.plan(budget).items():
            if structure.length < 3 or structure.family not in EXACT:
                continue
            weight = model.get_submodule(name).weight.detach()
            factors = sekron.decompose(weight, structure)
            layers += 1
            before += fitted_error(weight, factors, structure) ** 2
            after += fitted_error(weight, sekron.refine(weight, factors, structure), structure) ** 2
        rows.append((str(budget), layers, before, after, time.perf_counter() - start))
    frame = pd.DataFrame(rows, columns=["budget", "layers", "before", "after", "seconds"])
    print(frame.round(3).to_string(index=False))


def _trained(data: str, path: str) -> tuple[Split, nn.Module]:
    if data == "glyphs":
        split = glyphs()
        return split, trained_resnet(split)
    split = digits() if data == "digits" else {"cifar10": cifar10, "cifar100": cifar100}[data](path)
    n_channels, n_classes = split.train_images.shape[1], int(split.train_labels.max()) + 1
    name = "resnet20" if data == "digits" else f"resnet20-{data}"
    make = partial(resnet20, n_classes, n_channels)
    return split, trained(name, make, split.train_images, split.train_labels)


def _score(model: nn.Module, split: Split) -> float:
    return accuracy(model, split.test_images[:N_SCORED], split.test_labels[:N_SCORED])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.compare", description=__doc__)
    parser.add_argument(
        "--data", choices=("digits", "glyphs", "cifar10", "cifar100"), default="glyphs"
    )
    parser.add_argument("--path", default="", help="folder of CIFAR in its binary format")
    return parser.parse_args()


if __name__ == "__main__":
    main()
