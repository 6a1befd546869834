"""Quantize a dense and a compressed ResNet-20 to int8 after training, and run both ways of both."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

import search
import sekron
from search.clock.race import interval, race
from sekron.export.int8 import quantize, quantize_openvino
from sekron.export.packages import quiet
from sekron.export.readers import open_onnx, open_openvino, read_openvino, run_openvino
from sekron.forward.inputs import Arguments
from studies.digits import digits
from studies.networks import resnet20
from studies.training import RUNS, trained

Run = Callable[[Arguments], list[Tensor]]

N_IMAGES, AT_ONCE = 512, 64
"""Unlabelled training images that ranges of activations are taken from, and how many at a time."""

INPUT = "images"
"""Of the network."""

PRECISION = 0.005
"""Half width of the interval at which a race ends, relative to the speed-up."""


def main() -> None:
    """Run the study, print its table and write it beside this file."""
    options = _options()
    split = digits()
    model = trained("resnet20", resnet20, split.train_images, split.train_labels)
    images, batches = split.test_images[: options.batch], split.train_images.split(128)
    result = search.run(
        model,
        images,
        budget=search.Budget(flops=options.flops),
        n_trials=options.trials,
        measure_seconds=options.seconds,
        runtime=options.runtime,
        calibration=batches,
        run=RUNS / f"int8-{options.batch}",
    )
    small = result.best.apply(model)
    sekron.recalibrate(small, batches)
    calibration = split.train_images[:N_IMAGES].split(AT_ONCE)
    with tempfile.TemporaryDirectory() as folder:
        runs: dict[str, Run] = {}
        for name, network in (("dense", model), ("ours", small)):
            exact = Path(folder) / f"{name}.onnx"
            sekron.export_onnx(network, images, exact)
            opened = OPENED[options.runtime.partition("-")[0]](exact, calibration)
            kinds = zip(("float32", "int8"), opened, strict=True)
            runs |= {f"{name}, {kind}": run for kind, run in kinds}
        rows = _rows(runs, images, split.test_images, split.test_labels, options.race_seconds)
    table = pd.DataFrame(rows)
    print(f"{result.best} for {result.budget}, searched for {options.runtime}")
    print(table.to_string(index=False, float_format="{:.4f}".format))
    file = "openvino" if "openvino" in options.runtime else "digits"
    table.round(4).to_csv(Path(__file__).with_name(f"{file}.csv"), index=False)


def _in_onnxruntime(exact: Path, calibration: tuple[Tensor, ...]) -> tuple[Run, Run]:
    """Return a network in ONNX Runtime, in float32 and in int8."""
    int8 = exact.with_suffix(".int8.onnx")
    with quiet():
        quantize(exact, int8, ({INPUT: batch.numpy()} for batch in calibration))
    return open_onnx(exact, [INPUT]), open_onnx(int8, [INPUT])


def _in_openvino(exact: Path, calibration: tuple[Tensor, ...]) -> tuple[Run, Run]:
    """Return a network in OpenVINO, in float32 and in int8."""
    with quiet():
        batches = [{INPUT: batch.numpy()} for batch in calibration]
        int8 = quantize_openvino(read_openvino(exact), batches)
    return open_openvino(exact, [INPUT]), run_openvino(int8, [INPUT])


OPENED = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}
"""Runtime -> what opens an ONNX file in it, and once more quantized on batches."""


def _rows(
    runs: dict[str, Run], images: Tensor, test_images: Tensor, labels: Tensor, max_seconds: float
) -> list[dict[str, object]]:
    """Return accuracy, and speed-up over the dense network in float32, of each."""
    sides = [partial(run, Arguments((images,))) for run in runs.values()]
    times = race(sides, PRECISION, max_seconds)
    rows = []
    for (name, run), own in zip(runs.items(), times, strict=True):
        (logits,) = run(Arguments((test_images,)))
        low, speedup, high = interval(times[0] / own)
        correct = (logits.argmax(1) == labels).double().mean().item()
        rows.append(
            {"network": name, "accuracy": correct, "speedup": speedup, "low": low, "high": high}
        )
    return rows


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.int8", description=__doc__)
    parser.add_argument("--flops", type=float, default=0.4, help="share of the dense FLOPs")
    parser.add_argument("--batch", type=int, default=1, help="images that are timed")
    parser.add_argument("--trials", type=int, default=50, help="proposals per layer")
    parser.add_argument("--runtime", default="onnxruntime-int8", help="that it is searched for")
    parser.add_argument("--seconds", type=float, default=120.0, help="of the search's clock")
    parser.add_argument("--race-seconds", type=float, default=30.0, help="of the race afterwards")
    return parser.parse_args()


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
