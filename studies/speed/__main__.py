"""Time whole networks: dense, our plans, and a Tucker-2 plan run by others, in one race.

The weights are random, with a falling spectrum: only the clock matters here.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import asdict
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch._dynamo
from torch import Tensor, nn

import search
from baselines import METHODS, candidates
from search.clock.peak_memory import peak_activation_bytes
from search.clock.race import interval, race, synchronized
from search.front.choices import Choices
from sekron.profiling.count import count_flops
from studies.speed.again import SECONDS, again
from studies.speed.sides import Setting, applied, by_hand, with_layers
from studies.speed_layers.__main__ import LAYOUTS, load_tensorly_torch, tltorch_layer
from studies.training import RUNS

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
LATENCY = search.Budget(latency=0.6)
BUDGETS = {
    "ours, flops 50 %": search.Budget(flops=0.5),
    "ours, latency 60 %": LATENCY,
    "ours, both": search.Budget(flops=0.5, latency=0.6),
}

RECOMPILATIONS = 1000
"""Of one piece of code, after which dynamo would run it eagerly."""


def main() -> None:
    """Run the study, print the tables and write them beside this file."""
    options = _options()
    where = f"threads{torch.get_num_threads()}" if options.device == "cpu" else options.device
    path = Path(__file__).with_name(f"{'again' if options.again else where}.csv")
    asked = options.networks, options.batches, options.layouts, [options.device], options.dtypes
    for setting in (Setting(*values) for values in product(*asked)):
        if options.again:
            rows = again(setting)
        else:
            load_tensorly_torch()
            rows = _rows(setting, options)
        if not rows:
            print(f"{setting}: no plan of an earlier run")
            continue
        frame = pd.DataFrame([asdict(setting) | row for row in rows])
        print(frame.to_string(float_format="{:.3f}".format))
        _merged(path, frame, list(asdict(setting))).round(4).to_csv(path, index=False)


def _merged(path: Path, frame: pd.DataFrame, setting: list[str]) -> pd.DataFrame:
    """Return the table with the rows of one setting replaced: what was measured is kept."""
    if not path.exists():
        return frame
    known = pd.read_csv(path).set_index(setting)
    kept = known.drop(index=[key for key in frame.set_index(setting).index if key in known.index])
    return pd.concat([kept.reset_index(), frame], ignore_index=True)


def _rows(setting: Setting, options: argparse.Namespace) -> list[dict[str, object]]:
    network, x = setting.model(), setting.images()
    sides = _sides(setting, network, x, options)
    flops = {label: count_flops(side, (x[:1],))[0] for label, side in sides.items()}
    activations = {label: peak_activation_bytes(side, x) for label, side in sides.items()}
    rows = []
    # All sides share the code of their blocks, which dynamo compiles once for each.
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    for mode in options.modes:
        runs = [side if mode == "eager" else torch.compile(side) for side in sides.values()]
        with torch.no_grad():
            forward = [synchronized(lambda run=run: run(x), [x]) for run in runs]
            times = race(forward, precision=0.005, max_seconds=SECONDS)
        for label, own in zip(sides, times, strict=True):
            low, speedup, high = interval(times[0] / own)
            share = flops[label] / flops["dense"]
            rows.append(
                {
                    "mode": mode,
                    "side": label,
                    "flops": share,
                    "ms": 1e3 * float(np.median(own)),
                    "speedup": speedup,
                    "low": low,
                    "high": high,
                    "realised": speedup * share,
                    "activations": activations[label] / activations["dense"],
                    "rounds": len(own),
                }
            )
    return rows


def _sides(
    setting: Setting, network: nn.Module, x: Tensor, options: argparse.Namespace
) -> dict[str, nn.Module]:
    """Return the dense network, our plans, and the best Tucker-2 plan in three hands."""
    sides = {"dense": network}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one folder for all settings: latencies are taken anew
        for label, budget in BUDGETS.items():
            try:
                result = search.run(
                    network,
                    x,
                    budget=budget,
                    n_trials=options.trials,
                    measure_seconds=options.measure_seconds,
                    run=RUNS / f"speed-{setting.network}-{setting.dtype}",
                )
            except search.InfeasibleBudget as error:
                print(f"{setting}: {error}")
                continue
            sides[label] = applied(network, result.best)
            if budget == LATENCY:
                result.best.save(RUNS / f"speed-{setting}.json")
                print(f"{setting}: {_prediction(result.pareto_front())}")
    half = search.Budget(flops=0.5)
    tables = candidates(network, result.profile, METHODS["tucker2"])
    tucker = applied(network, Choices(result.profile, tables).best(half))
    factorized_conv = load_tensorly_torch()
    dense = dict(network.named_modules())
    sides["tucker2, ours"] = tucker
    sides["tucker2, sequential"] = with_layers(tucker, lambda _, layer: by_hand(layer))
    sides["tucker2, tltorch"] = with_layers(
        tucker, lambda path, layer: tltorch_layer(dense[path], layer, factorized_conv)
    )
    return sides


def _prediction(front: pd.DataFrame) -> str:
    known = front.dropna(subset=["predicted_ms", "latency_ms"])
    off = (known.predicted_ms / known.latency_ms - 1.0).abs()
    return (
        f"{len(known)} of the front's {len(front)} members were timed by layers and as a whole, "
        f"{int(front.latency_ms.notna().sum())} as a whole; predicted over measured latency is off "
        f"by {off.median():.1%} in the median, {off.quantile(0.9):.1%} at nine of ten, "
        f"{off.max():.1%} at most"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.speed", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--layouts", nargs="+", default=tuple(LAYOUTS), choices=tuple(LAYOUTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", nargs="+", default=("float32",), help="float16 too on cuda")
    parser.add_argument("--modes", nargs="+", default=("eager",), choices=("eager", "compiled"))
    parser.add_argument("--trials", type=int, default=20, help="proposals per layer")
    parser.add_argument("--measure-seconds", type=float, default=30.0)
    parser.add_argument("--again", action="store_true", help="only re-measure the plans found")
    return parser.parse_args()


if __name__ == "__main__":
    main()
