"""Search a plan for each runtime, and run it in all of them, each time in a fresh process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pandas as pd
import torch

import search
import sekron
from sekron.export.runtimes import RUNTIMES
from studies.runtimes.networks import NETWORKS, measured, network_and_images
from studies.training import RUNS

BUDGETS = {
    "latency=0.6": search.Budget(latency=0.6),
    "flops=0.5": search.Budget(flops=0.5),
    "flops=0.5, speedup=1.7": search.Budget(flops=0.5, speedup=1.7),
}
"""The last asks the clock for 0.85 of what half of the FLOPs promise."""

LONGER = {"torch.compile": 3.0}
"""Runtime -> how many times the seconds of a search's clock: a network compiles up to a minute."""

KEY = ["network", "batch", "threads", "budget", "searched_for", "run_in"]
"""What a row is about."""

FOUND = ["error", "flops", "dense_ms", "speedup", "low", "high", "note"]
"""What was found."""


def main() -> None:
    """Add the rows that are missing to the table beside this file, and print it."""
    options = _options()
    if options.measure:
        (network,), (batch,), (runtime,) = options.networks, options.batches, options.runtimes
        plan = Path(options.measure)
        print(json.dumps(measured(network, batch, plan, runtime, options.race_seconds)))
        return
    table = Path(__file__).with_name("results.csv")
    for network in options.networks:
        for batch in options.batches:
            for label in options.budgets:
                for runtime in options.runtimes:
                    _add(table, network, batch, label, runtime, options)
            _show(table, network, batch)


def _add(
    table: Path,
    network: str,
    batch: int,
    label: str,
    searched_for: str,
    options: argparse.Namespace,
) -> None:
    """Search for one runtime where a row is missing, and time the plan in every runtime."""
    about = (network, batch, torch.get_num_threads(), label, searched_for)
    known = set(_rows(table)[KEY].itertuples(index=False, name=None))
    missing = [runtime for runtime in options.runtimes if (*about, runtime) not in known]
    if not missing:
        return
    found, plan = _searched(network, batch, label, searched_for, options)
    for run_in in missing:
        row = dict(zip(KEY, (*about, run_in), strict=True)) | found
        if plan is not None:
            row |= _in_fresh_process(network, batch, plan, run_in, options)
        rows = [*_rows(table).to_dict("records"), row]
        pd.DataFrame(rows, columns=[*KEY, *FOUND]).to_csv(table, index=False)


def _searched(
    network: str, batch: int, label: str, runtime: str, options: argparse.Namespace
) -> tuple[dict[str, object], Path | None]:
    """Return error and FLOPs of the best plan and its file, or why there is none."""
    model, images = network_and_images(network, batch)
    folder = RUNS / f"runtimes-{network}-{batch}-threads{torch.get_num_threads()}"
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            result = search.run(
                model,
                images,
                budget=BUDGETS[label],
                n_trials=options.trials,
                measure_seconds=options.seconds * LONGER.get(runtime, 1.0),
                runtime=runtime,
                run=folder,
            )
    except (search.InfeasibleBudget, sekron.CannotRun, ImportError) as error:
        return {"note": str(error)}, None
    choices = result.choices
    member = choices.as_it_is(result.best)
    plan = folder / f"{label}-{runtime}.json"
    result.best.save(plan)
    said = " ".join(dict.fromkeys(str(note.message) for note in notes))
    flops = member.used["flops"] / result.profile.flops
    return {"error": member.error, "flops": flops, "note": said}, plan


def _in_fresh_process(
    network: str, batch: int, plan: Path, runtime: str, options: argparse.Namespace
) -> dict[str, object]:
    """Return what a process says of the plan that has searched nothing."""
    # As this process was called, with other options.
    command = sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]
    command += ["--measure", str(plan), "--networks", network, "--batches", str(batch)]
    command += ["--runtimes", runtime, "--race-seconds", str(options.race_seconds)]
    done = subprocess.run([sys.executable, *command], check=False, capture_output=True, text=True)
    if done.returncode:
        return {"note": done.stderr.strip().splitlines()[-1]}
    told: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return told


def _rows(table: Path) -> pd.DataFrame:
    return pd.read_csv(table) if table.exists() else pd.DataFrame(columns=[*KEY, *FOUND])


def _show(table: Path, network: str, batch: int) -> None:
    """Print searched for × run in, one table a budget."""
    rows = _rows(table)
    rows = rows[(rows["network"] == network) & (rows["batch"] == batch)]
    for (threads, label), of_budget in rows.groupby(["threads", "budget"]):
        print(f"{network}, batch {batch}, {threads} threads, {label}: speed-up, by runtime")
        index, refused = ["searched_for", "error", "flops"], of_budget["speedup"].isna()
        told = of_budget[~refused].pivot(index=index, columns="run_in", values="speedup")
        if len(told):
            print(told.to_string(float_format="{:.3f}".format))
        for runtime, note in of_budget[refused].groupby("searched_for")["note"].first().items():
            print(f"{runtime}: {note}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.runtimes", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    exact = [runtime for runtime in RUNTIMES if "-" not in runtime]  # in float32, on the CPU
    parser.add_argument("--runtimes", nargs="+", default=exact, choices=list(RUNTIMES))
    parser.add_argument("--trials", type=int, default=20, help="proposals per layer")
    parser.add_argument("--seconds", type=float, default=300.0, help="of a search's clock")
    parser.add_argument("--race-seconds", type=float, default=30.0, help="of a race afterwards")
    parser.add_argument("--measure", default="", help=argparse.SUPPRESS)  # a plan, by a process
    return parser.parse_args()


if __name__ == "__main__":
    main()
