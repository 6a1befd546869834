"""Time the search of one linear layer of random weights, and of applying its plans."""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

import search
from search.per_layer import space
from search.per_layer.study import front_volume
from sekron.rank_curves.table import FRONTS
from studies.search_speed.stages import peak_gib

SHARES = (0.1, 0.3, 0.6)
"""Of the FLOPs, that plans are applied at."""


def main() -> None:
    """Search and apply, and print the seconds and the peak memory."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.search_speed.wide", description=__doc__
    )
    parser.add_argument("outputs", nargs="?", type=int, default=4096)
    parser.add_argument("inputs", nargs="?", type=int, default=25088)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument(
        "--most-seconds",
        type=float,
        default=space.MOST_SECONDS,
        help="foretold time up to which a structure is proposed",
    )
    options = parser.parse_args()
    space.MOST_SECONDS = options.most_seconds
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(options.inputs, options.outputs))
    start = time.perf_counter()
    result = search.run(
        model,
        torch.zeros(1, options.inputs),
        budget=search.Budget(flops=0.3),
        n_trials=options.trials,
        include=["0"],
        measure_seconds=0,
        progress=False,
    )
    seconds = time.perf_counter() - start
    print(f"{options.outputs}x{options.inputs}, {torch.get_num_threads()} threads")
    print(f"search: {seconds:.1f} s, {len(result.candidates())} candidates", flush=True)
    volumes = ", ".join(f"{front_volume(result.tables['0'], mix):.4f}" for mix in FRONTS)
    print(f"its fronts of FLOPs and of parameters dominate {volumes} of the plane", flush=True)
    for share in SHARES:
        plan = result.plan(search.Budget(flops=share))
        start = time.perf_counter()
        plan.apply(model)
        print(f"apply {plan['0']}: {time.perf_counter() - start:.1f} s", flush=True)
    print(f"peak memory: {peak_gib():.2f} GiB")


if __name__ == "__main__":
    main()
