"""Optuna's samplers over whole plans against the exact sweep, at equal numbers of trials.

A trial picks one candidate per layer from the front of that layer; its objectives are the error
of the plan and its FLOPs. Every sampler also runs seeded with the plans of the sweep.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler

import search
from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options
from sekron.rank_curves.pareto import hypervolume
from studies.glyphs import glyphs, trained_resnet
from studies.training import RUNS

STEPS = 24
"""Plans of the sweep, over the range of FLOPs."""

LADDER = 16
"""Candidates per layer that a trial picks from: spread over the layer's front, dense included."""

GP_TRIALS = 100
"""Most trials of GP, which takes seconds for each."""

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "TPE": lambda seed: TPESampler(seed=seed, multivariate=True),
    "NSGA-II": lambda seed: NSGAIISampler(seed=seed),
    "GP": lambda seed: GPSampler(seed=seed, deterministic_objective=True),
    "random": lambda seed: RandomSampler(seed=seed),
}


def main() -> None:
    """Run the study, print the table and write it beside this file."""
    options = _options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    split = glyphs()
    result = search.run(
        trained_resnet(split),
        split.test_images[:1],
        budget=search.Budget(flops=0.5),
        run=RUNS / "samplers",
        measure_seconds=0,
    )
    layers = [_ladder(table.options(["flops"])) for table in result.tables.values()]
    start = time.perf_counter()
    sweep = _sweep(layers)
    rows: list[tuple[object, ...]] = [
        ("exact sweep", "", len(sweep), _volume(layers, sweep), time.perf_counter() - start)
    ]
    for n_trials, (name, make), seeded in product(options.trials, SAMPLERS.items(), (False, True)):
        if name == "GP" and n_trials > GP_TRIALS:
            continue
        start = time.perf_counter()
        volumes = [
            _volume(layers, _tried(layers, make(seed), n_trials, sweep if seeded else []))
            for seed in range(options.seeds)
        ]
        spent = (time.perf_counter() - start) / options.seeds
        rows.append((name, "yes" if seeded else "no", n_trials, np.mean(volumes), spent))
    columns = ["sampler", "seeded", "trials", "hypervolume", "seconds"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.round(4).to_csv(Path(__file__).with_name("glyphs.csv"), index=False)
    print(frame.to_string(float_format="{:.4f}".format))


def _ladder(options: Options) -> Options:
    """Return some of a layer's candidates on its front, from the cheapest to the dense layer."""
    order = np.lexsort((options.losses, options.costs[:, 0]))
    best_before = np.minimum.accumulate(np.append(np.inf, options.losses[order][:-1]))
    front = order[options.losses[order] < best_before]
    picked = front[np.unique(np.linspace(0, len(front) - 1, LADDER).round().astype(int))]
    return Options(options.losses[picked], options.costs[picked])


def _sweep(layers: list[Options]) -> list[tuple[int, ...]]:
    least = sum(float(layer.costs.min()) for layer in layers)
    most = sum(float(layer.costs[-1, 0]) for layer in layers)
    limits = np.geomspace(least, most, STEPS)
    found = [allocate(layers, [max(float(limit), least)]) for limit in limits]
    return list(dict.fromkeys(allocation.choice for allocation in found if allocation))


def _tried(
    layers: list[Options], sampler: BaseSampler, n_trials: int, first: list[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    for choice in first:
        study.enqueue_trial({f"layer{i}": index for i, index in enumerate(choice)})
    tried = []
    for _ in range(n_trials):
        trial = study.ask()
        choice = tuple(
            trial.suggest_int(f"layer{i}", 0, len(layer.losses) - 1)
            for i, layer in enumerate(layers)
        )
        study.tell(trial, _values(layers, choice))
        tried.append(choice)
    return tried


def _values(layers: list[Options], choice: tuple[int, ...]) -> tuple[float, float]:
    pairs = list(zip(layers, choice, strict=True))
    error = sum(float(layer.losses[index]) for layer, index in pairs) / len(layers)
    flops = sum(float(layer.costs[index, 0]) for layer, index in pairs)
    return error, flops / sum(float(layer.costs[-1, 0]) for layer in layers)


def _volume(layers: list[Options], choices: list[tuple[int, ...]]) -> float:
    errors, flops = np.array([_values(layers, choice) for choice in choices]).T
    return hypervolume(flops, errors)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.samplers", description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=(100, 500))
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
