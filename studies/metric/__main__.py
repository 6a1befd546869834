"""Compare settings of the metric: accuracy after batch-norm re-estimation, nothing trained.

Every line differs from the default, the first one, in what it names.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import Tensor, nn

import search
import sekron
from search.front.choices import Choices
from search.front.result import SearchResult
from sekron.calibration.metrics import DAMPING, POWER, metrics_of
from sekron.calibration.moments import Moments, moments
from sekron.calibration.sensitivity import divergences, sensitivities, weighted_by
from sekron.decomposition.metric import ERROR_POWER, Metric
from sekron.forward.inputs import as_arguments
from sekron.network.network_metric import NetworkMetric
from sekron.network.surgery import weight_of
from sekron.profiling.profile import profile
from studies.digits import Split
from studies.glyphs import glyphs, trained_resnet
from studies.training import RUNS, accuracy

N_IMAGES = 1024
"""Unlabelled training images that everything here may look at."""

BUDGETS = [search.Budget(**{r: s}) for r in ("flops", "params") for s in (0.1, 0.15, 0.25)]
COLUMNS = ("network", "setting", "budget", "dense", "accuracy", "lost")

POWERS, DAMPINGS = (0.25, 1.0), (0.01, 0.2)
"""Besides the default ones."""


def main() -> None:
    """Run the study and print its tables; rows in the file beside this one are not run again."""
    options = _options()
    split = glyphs()
    path = Path(__file__).with_name("glyphs.csv")
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    known = set(frame[list(COLUMNS[:3])].itertuples(index=False, name=None))
    for depth in options.depths:
        model = trained_resnet(split, depth)
        dense = accuracy(model, split.test_images, split.test_labels)
        for setting, result in _settings(depth, model, split):
            for budget in BUDGETS:
                key = (f"resnet{depth}", setting, str(budget))
                if key in known:
                    continue
                small = result.plan(budget).apply(model)
                sekron.recalibrate(small, _batches(split))
                kept = accuracy(small, split.test_images, split.test_labels)
                frame.loc[len(frame)] = [*key, dense, kept, dense - kept]
                frame.round(4).to_csv(path, index=False)
                print(*key, kept)
    settings, budgets = frame["setting"].unique(), frame["budget"].unique()
    for network, part in [*frame.groupby("network", sort=False), ("the mean of all", frame)]:
        table = 100 * part.pivot_table(index="setting", columns="budget", values="lost")
        table = table.loc[settings, budgets]
        table["mean"] = table.mean(axis=1)
        print(f"\npoints of accuracy lost, {network}")
        print(table.round(1).to_string())


def _settings(depth: int, model: nn.Module, split: Split) -> Iterator[tuple[str, SearchResult]]:
    """Yield searches in different metrics; those that differ in weights share their candidates."""
    example = split.test_images[:1]
    names = [layer.name for layer in profile(model, example).searched]
    collected = moments(model, names, _batches(split))

    def searched(label: str, metric: dict[str, Metric] | None) -> SearchResult:
        return search.run(
            model,
            example,
            budget=BUDGETS[2],
            run=RUNS / f"metric-resnet{depth}" / label,
            measure_seconds=0,
            calibration=None if metric is None else NetworkMetric(metric),
        )

    about_zero = moments(model, names, _batches(split), centred=False)
    default, by_size, measured = _metrics(model, collected, POWER, DAMPING, split)
    result = searched("default", default)
    yield "default", result
    of_metric = {name: metric.sensitivity for name, metric in by_size.items()}
    alone = sensitivities(measured)
    both = {name: math.sqrt(alone[name] * of_metric[name]) for name in names}
    for label, power, weights in (
        ("layers not weighed", ERROR_POWER, dict.fromkeys(names, 1.0)),
        ("layers by the metric alone", ERROR_POWER, of_metric),
        ("layers by the metric and divergence", ERROR_POWER, both),
        ("squares of errors", 2, alone),
    ):
        tables = {
            name: replace(table, sensitivity=weights[name], power=power)
            for name, table in result.tables.items()
        }
        choices = Choices(result.profile, tables, result.metrics)
        yield label, replace(result, choices=choices)
    for power in POWERS:
        yield (
            f"power {power}",
            searched(f"power-{power}", _metrics(model, collected, power, DAMPING, split)[0]),
        )
    for damping in DAMPINGS:
        yield (
            f"damping {damping}",
            searched(f"damping-{damping}", _metrics(model, collected, POWER, damping, split)[0]),
        )
    uncentred = _metrics(model, about_zero, POWER, DAMPING, split)[0]
    yield "moments about zero", searched("about-zero", uncentred)
    yield "no metric", searched("plain", None)


def _metrics(
    model: nn.Module, collected: dict[str, Moments], power: float, damping: float, split: Split
) -> tuple[dict[str, Metric], dict[str, Metric], dict[str, list[tuple[float, float]]]]:
    """Return the metrics as a search weighs them, as they weigh themselves, and divergences."""
    weights = {name: weight_of(model, name) for name in collected}
    by_size = metrics_of(weights, collected, power, damping)
    measured = divergences(model, by_size, [as_arguments(batch) for batch in _batches(split)[:2]])
    return weighted_by(by_size, measured), by_size, measured


def _batches(split: Split) -> tuple[Tensor, ...]:
    return split.train_images[:N_IMAGES].split(128)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.metric", description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=(20, 32))
    return parser.parse_args()


if __name__ == "__main__":
    main()
