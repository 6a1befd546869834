"""Time whole networks: dense, our plans, and a Tucker-2 plan run by others, in one race.

The weights are random, with a falling spectrum: only the clock matters here.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import search
from baselines import METHODS, candidates
from search.latency import interval, race
from search.memory import peak_activation_bytes
from search.sources import load_model
from sekron import Plan, SeKronConv2d
from sekron.profiling import count_flops
from sekron.surgery import rebuild
from studies.speed_layers.__main__ import LAYOUTS, load_tensorly_torch, tltorch_layer
from studies.training import RUNS

NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")
LATENCY = search.Budget(latency=0.6)
BUDGETS = {
    "ours, flops 50 %": search.Budget(flops=0.5),
    "ours, latency 60 %": LATENCY,
    "ours, both": search.Budget(flops=0.5, latency=0.6),
}
SECONDS = 30.0
"""Longest race of one network, batch and layout."""

WARM_UP, PLAIN = 10, 100
"""Rounds of the plain loop that are not counted, and that are."""


def main() -> None:
    """Run the study, print the tables and write them beside this file."""
    options = _options()
    if options.again:
        _measure_again(options)
        return
    load_tensorly_torch()
    path = _path(f"threads{torch.get_num_threads()}")
    for name in options.networks:
        model = _model(name)
        for batch in options.batches:
            for layout in options.layouts:
                frame = pd.DataFrame(_rows(name, model, batch, layout, options))
                print(frame.to_string(float_format="{:.3f}".format))
                _merged(path, frame).round(4).to_csv(path, index=False)


def _merged(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with the rows of one setting replaced: what was measured is kept."""
    if not path.exists():
        return frame
    setting = ["network", "batch", "layout"]
    known = pd.read_csv(path).set_index(setting)
    kept = known.drop(index=[key for key in frame.set_index(setting).index if key in known.index])
    return pd.concat([kept.reset_index(), frame], ignore_index=True)


def _path(name: str) -> Path:
    return Path(__file__).with_name(f"{name}.csv")


def _measure_again(options: argparse.Namespace) -> None:
    """Time in this process the plans of an earlier one that were to take 60 % of the time."""
    rows = []
    for file in sorted(RUNS.glob("speed-*.json")):
        _, name, batch, layout = file.stem.split("-")
        asked = options.networks, options.batches, options.layouts
        if not all(v in known for v, known in zip((name, int(batch), layout), asked, strict=True)):
            continue
        network = _laid_out(_model(name), layout)
        small, x = _applied(network, Plan.load(file)), _images(int(batch), layout)
        plain = _plain_ratio(network, small, x)
        clock = search.compare(network, small, x, precision=0.005, max_seconds=SECONDS)
        latency = 1 / clock.ratio, 1 / clock.high, 1 / clock.low
        rows.append((name, int(batch), layout, *latency, plain))
    columns = ["network", "batch", "layout", "latency", "low", "high", "plain"]
    frame = _merged(_path("again"), pd.DataFrame(rows, columns=columns))
    frame.round(4).to_csv(_path("again"), index=False)
    print(frame.to_string(float_format="{:.3f}".format))


def _plain_ratio(dense: nn.Module, small: nn.Module, x: Tensor) -> float:
    """Return the ratio of times as a user would take it, the allocator being left to itself."""
    ratios = []
    with torch.no_grad():
        for _ in range(WARM_UP + PLAIN):
            start = time.perf_counter()
            dense(x)
            middle = time.perf_counter()
            small(x)
            ratios.append((time.perf_counter() - middle) / (middle - start))
    return float(np.median(ratios[WARM_UP:]))


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = load_model(f"torchvision.models:{name}").eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                u, s, v = torch.linalg.svd(module.weight.flatten(1), full_matrices=False)
                falling = s * torch.arange(1, len(s) + 1) ** -0.5
                module.weight.copy_(((u * falling) @ v).reshape(module.weight.shape))
    return model


def _rows(
    name: str, model: nn.Module, batch: int, layout: str, options: argparse.Namespace
) -> list[dict[str, object]]:
    network, x = _laid_out(model, layout), _images(batch, layout)
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
                    run=RUNS / f"speed-{name}",
                )
            except search.InfeasibleBudget as error:
                print(f"{name}, batch {batch}, {layout}: {error}")
                continue
            sides[label] = _applied(network, result.best)
            if budget == LATENCY:
                result.best.save(RUNS / f"speed-{name}-{batch}-{layout}.json")
                front = result.pareto_front().dropna(subset=["predicted_ms", "latency_ms"])
                off = (front.predicted_ms / front.latency_ms - 1.0).abs()
                print(
                    f"{name}, batch {batch}, {layout}: predicted over measured latency of "
                    f"{len(front)} members of the front is off by {off.median():.1%} in the "
                    f"median, {off.quantile(0.9):.1%} at nine of ten, {off.max():.1%} at most"
                )
    half = search.Budget(flops=0.5)
    tables = candidates(network, result.profile, METHODS["tucker2"])
    tucker = search.SearchResult(result.profile, tables, half).best
    sides["tucker2, ours"] = _applied(network, tucker)
    sides["tucker2, sequential"] = _with(sides["tucker2, ours"], lambda _, layer: by_hand(layer))
    factorized_conv = load_tensorly_torch()
    dense = dict(network.named_modules())
    sides["tucker2, tltorch"] = _with(
        sides["tucker2, ours"],
        lambda path, layer: tltorch_layer(dense[path], layer, factorized_conv),
    )
    with torch.no_grad():
        runs = [_forward(side, x) for side in sides.values()]
        times = race(runs, precision=0.005, max_seconds=SECONDS)
    flops = {label: count_flops(side, (x[:1],))[0] for label, side in sides.items()}
    activations = {label: peak_activation_bytes(side, x) for label, side in sides.items()}
    rows = []
    for label, own in zip(sides, times, strict=True):
        low, speedup, high = interval(times[0] / own)
        share = flops[label] / flops["dense"]
        rows.append(
            {
                "network": name,
                "batch": batch,
                "layout": layout,
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


def _laid_out(model: nn.Module, layout: str) -> nn.Module:
    return copy.deepcopy(model).to(memory_format=LAYOUTS[layout])


def _images(batch: int, layout: str) -> Tensor:
    return torch.randn(batch, 3, 224, 224).contiguous(memory_format=LAYOUTS[layout])


def by_hand(layer: SeKronConv2d) -> nn.Sequential:
    """Return the convolutions that a plain layer runs as anyone would write them."""
    assert layer.sequence is not None
    convolutions = []
    for (operation, padding), weight in zip(layer.sequence, layer.weights, strict=True):
        n_out, n_in, *kernel = weight.shape
        convolution = nn.Conv2d(
            n_in,
            n_out,
            (kernel[0], kernel[1]),
            operation.stride,
            padding,
            operation.dilation,
            bias=False,
        )
        convolution.weight = nn.Parameter(weight.detach().clone())
        convolutions.append(convolution)
    convolutions[-1].bias = layer.bias
    return nn.Sequential(*convolutions)


def _applied(network: nn.Module, plan: Plan) -> nn.Module:
    """Replace the layers; what their factors are does not matter to the clock."""
    return rebuild(network, plan, {name: plan.form(name) for name in plan})


def _with(network: nn.Module, make: Callable[[str, SeKronConv2d], nn.Module]) -> nn.Module:
    """Return a copy in which our convolutions are made by someone else."""
    other = copy.deepcopy(network)
    for path, layer in network.named_modules():
        if isinstance(layer, SeKronConv2d):
            parent, _, name = path.rpartition(".")
            setattr(other.get_submodule(parent), name, make(path, layer))
    return other.eval()


def _forward(network: nn.Module, x: Tensor) -> Callable[[], object]:
    return lambda: network(x)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.speed", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batches", nargs="+", type=int, default=(1, 8))
    parser.add_argument("--layouts", nargs="+", default=tuple(LAYOUTS), choices=tuple(LAYOUTS))
    parser.add_argument("--trials", type=int, default=20, help="proposals per layer")
    parser.add_argument("--measure-seconds", type=float, default=15.0)
    parser.add_argument("--again", action="store_true", help="only re-measure the plans found")
    return parser.parse_args()


if __name__ == "__main__":
    main()
