"""Compare plans with every rival at its best, at equal FLOPs and at equal parameters.

A rival gets its candidates fitted by TensorLy, plainly and in our metric, and its ranks by each of
several rules; of these the one with the least error counts for the error, the best one for the
accuracy. Under the harshest budgets ours and the best form of every rival are repaired too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import baselines
import search
import sekron
from baselines.entrants import ACTIVATION_SVD, IN_METRIC
from sekron.budget import RESOURCES
from sekron.decomposition.decompose import EXACT
from sekron.decomposition.errors import fitted_error
from studies.cifar import cifar10, cifar100
from studies.compare.apart import CALIBRATED, OURS, best_forms, told_apart
from studies.digits import Split, digits
from studies.glyphs import glyphs, trained_resnet
from studies.networks import resnet20
from studies.tensorly_time import tensorly_seconds
from studies.training import RUNS, accuracy, trained

N_SCORED = 1000
"""Test images for each accuracy: some four hundred networks are scored, twice."""

SHARES = (0.1, 0.15, 0.25, 0.4, 0.6)
REPAIRED = (0.1, 0.15, 0.25)
"""Shares at which networks are repaired too, which takes most of the time."""

RULES = ("exact", "minimax")
"""For ranks across layers; `uniform` was never and `greedy` hardly ever the best of a rival's."""


def main() -> None:
    """Run the study, print its tables and write all rows beside this file."""
    options = _options()
    torch.set_num_threads(options.threads)
    split, model = _trained(options.data, options.path)
    budgets = _budgets(options.resources, options.shares)
    run = RUNS / f"compare-{options.data}"
    start = time.perf_counter()
    ours = _searched(model, split, run, calibration=None)
    for budget in budgets:
        ours.plan(budget)
    seconds = time.perf_counter() - start
    print(
        f"{options.data}, dense accuracy {_score(model, split):.4f}; nothing is trained afterwards"
    )
    calibrated = _searched(model, split, run / "calibrated", calibration=_images(split))
    compare = partial(_compare, model, split, run / "comparison.csv", ours, calibrated)
    frame = compare(budgets, methods=None, repair=False)
    _write(frame, f"{options.data}.csv")
    _print_tables(frame)
    repaired_shares = [share for share in options.shares if share in REPAIRED]
    to_repair = _budgets(options.resources, repaired_shares)
    _print_apart(frame, "score_recalibrated", to_repair)
    if to_repair:
        repaired = compare(to_repair, methods=[], repair=True)
        for name, own in best_forms(frame, to_repair).items():
            repaired = compare(own, methods=[name], repair=True)  # with all rows before
        _write(repaired, f"{options.data}-repaired.csv")
        _print_apart(repaired, "score_repaired", to_repair)
    rivals, _ = tensorly_seconds(model, ours.profile)
    print(
        f"the whole search, all ranks and {len(budgets)} budgets: {seconds:.1f} s (from the run "
        f"folder, if it was there); TensorLy, the network once at one set of ranks: "
        + ", ".join(f"{name} {spent:.1f} s" for name, spent in rivals.items())
    )
    _print_refinement(model, ours, budgets)


def _compare(
    model: nn.Module,
    split: Split,
    output: Path,
    ours: search.SearchResult,
    calibrated: search.SearchResult,
    budgets: list[search.Budget],
    methods: list[str] | None,
    repair: bool,
) -> pd.DataFrame:
    """Compare some rivals, or all; ours take part where it is all or none of them."""
    return baselines.compare(
        model,
        split.test_images[:1],
        budgets,
        methods=methods,
        allocations=RULES,
        tables=None if methods else {OURS: ours.tables},
        plans=None if methods else {CALIBRATED: calibrated.plan},
        metric=calibrated.metrics,
        score=lambda network: _score(network, split),
        calibration=_images(split),
        repair=repair,
        output=output,
    )


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


def _images(split: Split) -> tuple[Tensor, ...]:
    """Return the unlabelled images that every side may look at."""
    return split.train_images[:1024].split(128)


def _budgets(resources: Sequence[str], shares: Sequence[float]) -> list[search.Budget]:
    return [search.Budget(**{name: share}) for name in resources for share in shares]


def _write(frame: pd.DataFrame, name: str) -> None:
    frame.round(4).to_csv(Path(__file__).with_name(name), index=False)


def _print_tables(frame: pd.DataFrame) -> None:
    """Print, per budget, ours beside the best of every rival's rules for its ranks.

    The error is the plain one, of those that are decomposed in the plain norm; the score is the
    best one in any norm.
    """
    is_in_metric = frame["method"].str.endswith(IN_METRIC)
    ours_exact = frame[(frame["method"] == OURS) & (frame["ranks_by"] == "exact")]
    best_of_both = frame.assign(method=frame["method"].str.removesuffix(IN_METRIC))
    judged = {
        "error": ("min", OURS, frame[~is_in_metric & (frame["method"] != ACTIVATION_SVD)]),
        "score_recalibrated": ("max", CALIBRATED, best_of_both),
    }
    for column, (best, judged_by, part) in judged.items():
        table = part.pivot_table(index="budget", columns="method", values=column, aggfunc=best)
        table[OURS] = ours_exact.set_index("budget")[column]  # the plan that a search returns
        table = table.loc[list(dict.fromkeys(frame["budget"]))]
        rivals = table.drop(columns=[OURS, CALIBRATED], errors="ignore")
        table = table[[name for name in (OURS, CALIBRATED) if name in table]].join(rivals)
        sign = 1 if best == "min" else -1
        holds = sign * table[judged_by] <= (sign * rivals).min(axis=1)
        table["holds"] = holds.map({True: "", False: "lost"})
        print(
            f"\n{column}, {judged_by} against the best of each rival's: {holds.sum()} of "
            f"{len(table)} hold"
        )
        print(table.round(3).to_string())


def _print_apart(frame: pd.DataFrame, column: str, budgets: list[search.Budget]) -> None:
    print(f"\n{column} in percent: what the structures give, and what the metric gives")
    print((100 * told_apart(frame, column, budgets)).round(1).to_string())


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
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    parser.add_argument("--resources", nargs="+", choices=RESOURCES, default=RESOURCES)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
