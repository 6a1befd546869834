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
from studies.super_resolution.fidelity import fidelity
from studies.super_resolution.networks import NETWORKS, Network, test_images
from studies.super_resolution.repaired import repaired, tuned
from studies.training import RUNS

SIZE = 256
"""Side of the image, in pixels, that is magnified against the clock."""

SECONDS = 150.0
"""Of a search's clock."""

KEY = ["runtime", "threads", "asked"]
"""What a row is about."""

PRECISION, RACE_SECONDS = 0.005, 60.0
"""A race ends at so small a half width of the speed-up's interval, or after so long."""


def main() -> None:
    """Add rows to the table, in place of those that are about the same, and print it."""
    options = _options()
    torch.set_num_threads(options.threads)
    network = NETWORKS["animevideov3"]
    model, rows = network.build(), []
    for runtime in options.runtimes:
        for speedup in options.speedups:
            row = dict(zip(KEY, (runtime, options.threads, speedup), strict=True))
            try:
                row |= _found(network, model, runtime, speedup)
            except (search.InfeasibleBudget, sekron.CannotRun, ImportError) as error:
                row["note"] = str(error)
            rows.append(row)
    before = [pd.read_csv(options.output)] if options.output.exists() else []
    frame = pd.concat([*before, pd.DataFrame(rows)]).drop_duplicates(KEY, keep="last").round(4)
    frame.to_csv(options.output, index=False)
    print(frame.to_string(index=False))


def _image(runtime: str) -> Tensor:
    """Return what is magnified, for eager torch with the channels last in memory.

    The other runtimes choose the order in memory themselves.
    """
    image = torch.rand(1, 3, SIZE, SIZE)
    return image.contiguous(memory_format=torch.channels_last) if runtime == EAGER else image


def _found(network: Network, model: nn.Module, runtime: str, speedup: float) -> dict[str, object]:
    """Return what is known of the plan for a speed-up, and of the network that is tuned."""
    image = _image(runtime)
    result = search.run(
        model,
        image,
        budget=search.Budget(speedup=speedup),
        run=RUNS / f"sr-{network.name}-clock",
        calibration=network.calibration(),
        runtime=runtime,
        measure_seconds=SECONDS,
    )
    choices = result.choices
    used = choices.member(choices.choice(result.best)).used
    found: dict[str, object] = {"flops": used["flops"] / result.profile.flops}
    test, small = test_images(), result.best.apply(model)
    found["decomposed"] = fidelity(small, model, test)
    for rung, fitted in (("repaired", repaired), ("tuned", tuned)):
        small, _ = fitted(network, model, result.best)
        found[rung] = fidelity(small, model, test)
    found |= _raced(model, small, image, runtime)
    if runtime == EAGER:
        contiguous = _raced(model, small, image.contiguous(), runtime)
        found |= {f"contiguous_{name}": value for name, value in contiguous.items()}
    return found


def _raced(model: nn.Module, small: nn.Module, image: Tensor, runtime: str) -> dict[str, object]:
    """Return the speed-up with its 95 % interval, and the dense network's milliseconds."""
    clock = search.compare(
        model, small, image, precision=PRECISION, max_seconds=RACE_SECONDS, runtime=runtime
    )
    return {
        "dense_ms": clock.first.median_ms,
        "speedup": clock.ratio,
        "low": clock.low,
        "high": clock.high,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m studies.super_resolution.clock", description=__doc__
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnxruntime", "openvino"])
    parser.add_argument("--speedups", nargs="+", type=float, default=[1.5])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
