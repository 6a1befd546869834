"""Measure the search of one network in a process of its own: candidates, front, a new budget."""

from __future__ import annotations

import argparse
import resource
import tempfile
import time

import numpy as np
import torch

import search
from search.folder.input_spec import InputSpec
from search.front.sweep import STEPS
from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options
from studies.search_speed.networks import NETWORKS, network_and_input
from studies.search_speed.stages import peak_gib, watching
from studies.tensorly_time import tensorly_seconds

SYNTHETIC = ((53, 500), (50, 10_000))
"""Layers and candidates of each, for the time of the choice across layers alone."""


def main() -> None:
    """Search a network in a fresh run folder, and print seconds and peak memory."""
    options = _options()
    torch.manual_seed(0)
    model, shape = network_and_input(options.model, options.input)
    spec = InputSpec.parse(shape)
    example = torch.zeros(spec.shape)
    images = [torch.randn(options.images, *spec.shape[1:])] if options.images else None
    print(f"{options.model} {shape}, {options.threads} layers at a time, S <= 3", flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as private, watching() as spent:
        result = search.run(
            model,
            example,
            budget=search.Budget(flops=0.5),
            n_trials=options.trials,
            include=options.include,
            run=None if options.one_process else private,
            n_threads=options.threads,
            calibration=images,
            measure_seconds=options.measure,
        )
    whole = time.perf_counter() - start
    rows = sum(len(table) for table in result.tables.values())
    print(spent)
    print(f"search: {whole:.1f} s, {len(result.tables)} layers, {rows} candidates", flush=True)
    alone = {"flops": 0.3}, {"params": 0.3}
    for limits in (*alone, {"flops": 0.4, "params": 0.3}):  # the last two both bind
        budget = search.Budget(**limits)
        start = time.perf_counter()
        try:
            told = f"gap {result.allocate(budget).gap:.1e}"
        except search.InfeasibleBudget:
            told = "out of reach"
        print(f"new budget {budget}: {time.perf_counter() - start:.2f} s, {told}")
    for n_layers, n_candidates in SYNTHETIC:
        _time_synthetic(n_layers, n_candidates)
    if options.tensorly > 0:
        rivals, done = tensorly_seconds(model, result.profile, options.tensorly)
        spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in rivals.items())
        print(f"TensorLy, {done} of {len(result.tables)} layers at one set of ranks: {spent}")
    of_others = peak_gib(resource.RUSAGE_CHILDREN)
    print(f"peak memory: {peak_gib():.2f} GiB, of the largest process beside: {of_others:.2f} GiB")


def _time_synthetic(n_layers: int, n_candidates: int) -> None:
    """Allocate made-up layers whose error falls with cost, each at its own pace, and print it."""
    draw = np.random.default_rng(0)
    layers = []
    for _ in range(n_layers):
        cost = np.sort(draw.uniform(0.0, 1.0, n_candidates))
        error = np.exp(-cost * draw.uniform(2.0, 6.0)) * draw.uniform(1.0, 1.1, n_candidates)
        size = draw.lognormal()
        layers.append(Options(np.append(error**2, 0.0), size * np.append(cost, 1.2)[:, None]))
    dense = sum(float(layer.costs[-1, 0]) for layer in layers)
    seconds, gaps = [], []
    for share in np.geomspace(0.05, 1.0, STEPS):
        start = time.perf_counter()
        allocation = allocate(layers, [share * dense])
        seconds.append(time.perf_counter() - start)
        assert allocation is not None
        gaps.append(allocation.gap)
    print(
        f"{n_candidates} candidates x {n_layers} layers: a budget {np.median(seconds):.2f} s, "
        f"{STEPS} budgets {sum(seconds):.1f} s, largest gap {max(gaps):.1e}"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.search_speed", description=__doc__)
    parser.add_argument(
        "model", nargs="?", default="resnet18", help=f"{', '.join(NETWORKS)} or module:attribute"
    )
    parser.add_argument("--input", default="", help="its shape, where the network is none of these")
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="layers at the same time"
    )
    parser.add_argument(
        "--one-process", action="store_true", help="no run folder, so that no process helps"
    )
    parser.add_argument("--include", nargs="+", help="patterns of the layers that are searched")
    parser.add_argument("--images", type=int, default=0, help="random ones, to calibrate with")
    parser.add_argument("--measure", type=float, default=0.0, help="seconds for the clock")
    parser.add_argument(
        "--tensorly", type=float, default=0.0, help="seconds for its decompositions, timed too"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
