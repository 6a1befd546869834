"""Search a ResNet-20 while another process keeps one core busy, then time its front in quiet."""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
from search.clock.race import Comparison
from search.front.result import SearchResult
from sekron import Plan
from studies.digits import digits
from studies.networks import resnet20
from studies.speed.sides import applied
from studies.training import trained

PRECISION = 0.01
"""Half width of the interval at which a race in quiet ends, relative to the speed-up."""


def main() -> None:
    """Search beside busy processes; print what was said, and what quiet says of it."""
    options = _options()
    split = digits()
    model = trained("resnet20", resnet20, split.train_images, split.train_labels)
    images = split.test_images[: options.batch]
    budget = search.Budget(latency=options.latency)
    if options.flops is not None:
        budget = search.Budget(flops=options.flops)
    with warnings.catch_warnings(record=True) as notes, _busy(options.busy):
        warnings.simplefilter("always", UserWarning)
        found = _searched(model, images, budget, options)
    said = list(dict.fromkeys(str(note.message) for note in notes))
    print(f"{budget}, searched beside {options.busy} busy processes")
    for line in said:
        print(f"said: {line}")
    if isinstance(found, str):
        print(f"refused: {found}")
        return
    assert found.timetable is not None
    print(
        f"threads waited {found.timetable.waited:.0%} of the time for a processor; the dense "
        f"network's times are spread over {found.timetable.spread:.0%}"
    )
    race = partial(_raced, model, images, max_seconds=options.race_seconds, runtime=options.runtime)
    held = race(found.best)
    print(f"the plan takes {1.0 / held.ratio:.3f} of the dense network's time in quiet")
    if budget.latency is not None:
        print(f"the budget {'holds' if 1.0 / held.high <= budget.latency else 'does not hold'}")
    table = _confirmed(found, race)
    print(table.to_string(index=False, float_format="{:.3f}".format))
    shown = table[table["speedup"].notna()]
    print(
        f"{len(table)} plans of the front were timed, {len(shown)} show a speed-up; quiet confirms "
        f"{int(shown['confirmed'].sum())} of these within their interval"
    )
    if options.table:
        table.to_csv(options.table, index=False)


def _searched(
    model: nn.Module, images: Tensor, budget: search.Budget, options: argparse.Namespace
) -> SearchResult | str:
    """Return the result, or why there is none."""
    try:
        return search.run(
            model,
            images,
            budget=budget,
            n_trials=options.trials,
            measure_seconds=options.measure_seconds,
            runtime=options.runtime,
        )
    except search.InfeasibleBudget as error:
        return str(error)


def _confirmed(result: SearchResult, race: Callable[[Plan], Comparison]) -> pd.DataFrame:
    """Return the rows of a front that were timed, with what a quiet machine says of each."""
    front, rows = result.pareto_front().dropna(subset="latency_ms"), []
    assert result.timetable is not None
    dense_ms = result.timetable.network_ms
    for values in front.to_dict("records"):
        if not values["plan"]:
            continue  # the dense network itself
        low, high = (dense_ms / values[f"latency_{end}_ms"] for end in ("high", "low"))
        quiet = race(values["plan"])
        rows.append(
            {
                "flops_ratio": values["flops_ratio"],
                "predicted": dense_ms / values["predicted_ms"],
                "speedup": values["speedup"],
                "low": low,
                "high": high,
                "quiet": quiet.ratio,
                "quiet_low": quiet.low,
                "quiet_high": quiet.high,
                "confirmed": low <= quiet.high and quiet.low <= high,
            }
        )
    return pd.DataFrame(rows)


def _raced(
    model: nn.Module, images: Tensor, plan: Plan, *, max_seconds: float, runtime: str
) -> Comparison:
    """Race a plan's network against the dense one; its factors do not matter to the clock."""
    small = applied(model, plan)
    return search.compare(
        model, small, images, precision=PRECISION, max_seconds=max_seconds, runtime=runtime
    )


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Keep processors busy with processes that do nothing else."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.busy", description=__doc__)
    parser.add_argument("--latency", type=float, default=0.8, help="share of the dense time")
    parser.add_argument("--flops", type=float, help="share of the dense FLOPs, instead of that")
    parser.add_argument("--busy", type=int, default=1, help="busy processes; 0: none")
    parser.add_argument("--batch", type=int, default=32, help="images that are timed")
    parser.add_argument("--trials", type=int, default=20, help="proposals per layer")
    parser.add_argument("--measure-seconds", type=float, default=5.0, help="of the search's clock")
    parser.add_argument("--race-seconds", type=float, default=2.0, help="of each race in quiet")
    parser.add_argument("--runtime", default="torch", help="whose clock it is")
    parser.add_argument("--table", type=Path, help="CSV file to write")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
