"""What a plan saves in each stage of its network, as the layers were timed alone in each runtime.

It reads what `python -m studies.runtimes` has kept, and measures nothing.
"""

from __future__ import annotations

import argparse

import pandas as pd
import torch

from search.front.result import SearchResult
from search.pipeline.load import load_so_far
from sekron import Plan
from studies.runtimes.__main__ import BUDGETS
from studies.runtimes.networks import NETWORKS
from studies.training import RUNS


def main() -> None:
    """Print, for the plan of each runtime, the share of FLOPs and of time that is left."""
    options = _options()
    folder = RUNS / f"runtimes-{options.network}-{options.batch}-threads{options.threads}"
    result, _ = load_so_far(folder)
    for path in sorted(folder.glob(f"{options.budget}-*.json")):
        searched_for, plan = path.stem.removeprefix(f"{options.budget}-"), Plan.load(path)
        runtimes = result.runtimes()["runtime"]
        times = {name: left(result.in_runtime(name), plan, "ms") for name in runtimes}
        frame = pd.DataFrame({"flops": left(result, plan, "flops"), **times})
        print(f"\n{options.budget} for {searched_for}")
        print(frame.to_string(float_format="{:.2f}".format))


def left(result: SearchResult, plan: Plan, what: str) -> pd.Series:
    """Return stage -> share of `flops` or `ms` that a plan leaves of its searched layers.

    Args:
        result: On the clock of a runtime.
        plan: Of it. Layers whose names begin alike are one stage.
        what: Column of its layers.
    """
    layers = result.layers(plan)
    layers = layers[layers["reason"] == ""]
    stage = layers["layer"].str.partition(".")[0].rename("stage")
    sums = layers.groupby(stage, sort=False)[[what, f"{what}_after"]].sum()
    return sums[f"{what}_after"] / sums[what]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.runtimes.by_stage")
    parser.add_argument("--network", default="resnet18", choices=list(NETWORKS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--budget", default="flops=0.5", choices=list(BUDGETS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    main()
