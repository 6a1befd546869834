"""Search the structures of trained 32×32×3×3 layers and compare with scoring every one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import optuna
import pandas as pd
import torch
from rich.progress import track
from torch import Tensor

from search.per_layer.samplers import SAMPLERS
from search.per_layer.space import Space, canonical, factorizations
from search.per_layer.study import LayerStudy, front_volume
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import Point
from sekron.structures.geometry import Geometry
from studies.glyphs import glyphs, trained_resnet

FAMILIES = ("sekron", "chain")
"""Those whose errors at all ranks follow from singular values: all structures can be scored."""

SHAPE = (32, 32, 3, 3)
OUTPUT_SIZE = (16, 16)
N_RAW = 7222
"""Structures with two or three factors, before equal ones are merged."""

N_SEEDS = {"neighbour": 2, "tpe": 1, "nsga2": 1, "random": 2}
"""TPE takes minutes for what the others do in seconds."""


def main() -> None:
    """Run the study, print the table and write it beside this file."""
    options = _options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    model = trained_resnet(glyphs())
    rows = []
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and tuple(weight.shape) == SHAPE:
            rows += _compare(name, weight.detach(), options.structures)
            if options.first:
                break
    frame = pd.DataFrame(
        rows, columns=["layer", "search", "scored", "trials", "flops_%", "params_%"]
    )
    text = frame.to_string(index=False, float_format=lambda value: f"{value:.3f}")
    print(f"share of the exhaustive hypervolume (S <= 3), in percent\n{text}")
    frame.round(4).to_csv(Path(__file__).with_name("results.csv"), index=False)


def _compare(name: str, weight: Tensor, n_structures: int) -> Iterator[tuple[object, ...]]:
    spectra = Spectra(weight, (Geometry.of(SHAPE, OUTPUT_SIZE),))
    every = _exhaustive(name, spectra, Space(SHAPE, 3, FAMILIES))
    volumes = [front_volume(every, mix) for mix in (1.0, 0.0)]

    def row(label: str, study: LayerStudy) -> tuple[object, ...]:
        found = [front_volume(study.table, mix) for mix in (1.0, 0.0)]
        shares = [100.0 * f / v for f, v in zip(found, volumes, strict=True)]
        return (name, label, study.n_scored, study.n_proposed, *shares)

    for sampler in SAMPLERS:
        for seed in range(N_SEEDS[sampler]):
            study = LayerStudy(
                f"{name}-{sampler}", spectra, Space(SHAPE, 3, FAMILIES), sampler=sampler, seed=seed
            )
            study.run(0)
            if sampler == "neighbour":
                yield row("templates alone", study)
            while study.n_scored < n_structures and study.n_proposed < 2 * n_structures:
                study.propose()
            yield row(f"templates + {sampler}, seed {seed}", study)
    longer = LayerStudy(f"{name}-longer", spectra, Space(SHAPE, 4, FAMILIES))
    longer.run(0)
    yield row("S <= 4, templates alone", longer)
    while longer.n_scored < n_structures:
        longer.propose()
    yield row("S <= 4, templates + neighbour", longer)


def _exhaustive(name: str, spectra: Spectra, space: Space) -> CandidateTable:
    table = CandidateTable(spectra.dense_flops, spectra.dense_params)
    points: dict[Point, None] = {}
    for length in range(2, space.max_length + 1):
        for columns in product(*(factorizations(size, length) for size in SHAPE)):
            for family in space.families:
                point = canonical(family, tuple(zip(*columns, strict=True)))
                if point is not None:
                    points[point] = None
    shown = sys.stderr.isatty()
    for point in track(points, description=f"every structure of {name}", disable=not shown):
        table.add(spectra.curve(*point))
    return table


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m studies.layer_fronts", description=__doc__)
    parser.add_argument("--structures", type=int, default=N_RAW // 20, help="to score per search")
    parser.add_argument("--first", action="store_true", help="only the first such layer")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)  # the matrices are too small for more
    main()
