"""Train a ResNet-20 on handwritten digits, search it, and put the winning plan to work."""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import torch

import search
import sekron
from sekron.profiling.count import count_flops
from studies.digits import digits
from studies.networks import resnet20
from studies.quickstart.picture import draw
from studies.training import RUNS, accuracy, trained


def main() -> None:
    """Run the study and print every step."""
    options = _options()
    split = digits()
    model = trained("resnet20", resnet20, split.train_images, split.train_labels)
    images = split.test_images[:32]  # what is timed; FLOPs count for one
    batches = split.train_images.split(128)  # labels are not looked at

    result = search.run(
        model,
        images,
        budget=search.Budget(flops=options.flops),
        n_trials=options.trials,
        measure_seconds=30,
        calibration=batches,
        run=RUNS / "quickstart",
    )
    front = result.pareto_front()
    print(front.drop(columns="plan").to_string(float_format=lambda value: f"{value:.4f}"))
    if options.picture:
        draw(front, result.best_row, options.flops, options.picture)

    plan = result.best
    small = plan.apply(model)
    right_after = accuracy(small, split.test_images, split.test_labels)
    sekron.recalibrate(small, batches)

    plan.save(RUNS / "quickstart" / "best.json")
    sekron.save(small, RUNS / "quickstart" / "small.safetensors")
    loaded = sekron.load(resnet20(), RUNS / "quickstart" / "small.safetensors").eval()
    with torch.no_grad():
        same = torch.equal(loaded(split.test_images), small.eval()(split.test_images))

    flops, _ = count_flops(small, (images[:1],))
    clock = search.compare(model, small, images)
    n_params = sum(p.numel() for p in small.parameters())
    dense_accuracy = accuracy(model, split.test_images, split.test_labels)
    recalibrated = accuracy(small, split.test_images, split.test_labels)
    rows = {
        "accuracy": (dense_accuracy, recalibrated, recalibrated - dense_accuracy),
        "FLOPs (fvcore)": (result.profile.flops, flops, flops / result.profile.flops),
        "parameters": (result.profile.params, n_params, n_params / result.profile.params),
        "ms per 32 images": (clock.first.median_ms, clock.second.median_ms, 1.0 / clock.ratio),
    }
    print(f"\n{plan} for {result.budget}; change: a difference for accuracy, else a ratio")
    print(pd.DataFrame(rows, index=["dense", "small", "change"]).T.to_string(float_format=_number))
    print(f"accuracy before batch-norm re-estimation: {right_after:.4f}")
    print(f"unsupported by fvcore: {', '.join(result.profile.unsupported) or 'nothing'}")
    print(f"loaded from {RUNS.name}/quickstart/small.safetensors, outputs equal: {same}")
    if not same:
        raise SystemExit("the loaded network must give the same outputs")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.quickstart", description=__doc__)
    parser.add_argument("--flops", type=float, default=0.4, help="share of the dense FLOPs")
    parser.add_argument("--trials", type=int, default=50, help="proposals per layer")
    parser.add_argument("--picture", type=Path, help="file to draw the front to, .svg or .png")
    return parser.parse_args()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


if __name__ == "__main__":
    main()
