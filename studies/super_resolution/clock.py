"""How fast `animevideov3` becomes in a runtime, and what is left of its images.

For each runtime and speed-up: a search by that runtime's clock, repair and tune of what it finds,
and a race with the dense network, on a machine that must be quiet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

import search
import sekron
from search.clock.race import EAGER
from sekron.export.runtimes import RUNTIMES
from studies.runtimes.networks import raced
from studies.super_resolution.fidelity import fidelity
from studies.super_resolution.networks import NETWORKS, Network, test_images
from studies.super_resolution.repaired import repaired, tuned
from studies.training import RUNS

SIZE = 256
"""Side of the image, in pixels, that is magnified against the clock."""

KEY = ["runtime", "threads", "asked"]
"""What a row is about."""

RACE_SECONDS = 60.0
"""Of a race, at most."""


def main() -> None:
    """Add rows to the table, in place of those that are about the same, and print it."""
    options = _options()
    torch.set_num_threads(options.threads)
    network = NETWORKS["animevideov3"]
    model = network.build()
    for runtime in options.runtimes:
        for speedup in options.speedups:
            row = dict(zip(KEY, (runtime, options.threads, speedup), strict=True))
            try:
                row |= _found(network, model, runtime, speedup, options.seconds)
            except (search.InfeasibleBudget, sekron.CannotRun) as error:
                row["note"] = str(error)
            _keep(options.output, row)
    print(pd.read_csv(options.output).to_string(index=False))


def _keep(table: Path, row: dict[str, object]) -> None:
    """Write a row to the table as soon as it is there, in place of one that is about the same."""
    before = [pd.read_csv(table)] if table.exists() else []
    frame = pd.concat([*before, pd.DataFrame([row])]).drop_duplicates(KEY, keep="last")
    frame.round(4).to_csv(table, index=False)


def _image(runtime: str) -> Tensor:
    """Return what is magnified, for eager torch with the channels last in memory.

    The other runtimes choose the order in memory themselves.
    """
    image = torch.rand(1, 3, SIZE, SIZE)
    return image.contiguous(memory_format=torch.channels_last) if runtime == EAGER else image


def _found(
    network: Network, model: nn.Module, runtime: str, speedup: float, seconds: float
) -> dict[str, object]:
    """Return what is known of the plan for a speed-up, and of the network that is tuned."""
    image = _image(runtime)
    result = search.run(
        model,
        image,
        budget=search.Budget(speedup=speedup),
        run=RUNS / f"sr-{network.name}-clock",
        calibration=network.calibration(),
        runtime=runtime,
        measure_seconds=seconds,
    )
    choices = result.choices
    used = choices.as_it_is(result.best).used
    found: dict[str, object] = {"flops": used["flops"] / result.profile.flops}
    test, small = test_images(), result.best.apply(model)
    found["decomposed"] = fidelity(small, model, test)
    for rung, fitted in (("repaired", repaired), ("tuned", tuned)):
        small, _ = fitted(network, model, result.best)
        found[rung] = fidelity(small, model, test)
    found |= raced(model, small, image, runtime, RACE_SECONDS)
    if runtime == EAGER:
        contiguous = raced(model, small, image.contiguous(), runtime, RACE_SECONDS)
        found |= {f"contiguous_{name}": value for name, value in contiguous.items()}
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.super_resolution.clock", description=__doc__
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--runtimes",
        nargs="+",
        default=[EAGER, "onnxruntime", "openvino"],
        choices=list(RUNTIMES),
    )
    parser.add_argument("--speedups", nargs="+", type=float, default=[1.5])
    parser.add_argument("--seconds", type=float, default=150.0, help="of a search's clock")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
