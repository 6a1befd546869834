"""Why every plan is CP: what plans choose, and the least error of each kind for the same costs.

The errors are of a few layers alone, in the plain norm, where all are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
import torch
from torch import nn

import search
from search.per_layer.space import Space
from sekron.network.surgery import weight_of
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import Point
from sekron.structures.geometry import Geometry
from sekron.structures.templates import channel_svd, spatial_svd, tucker2
from studies.pretrained.srvggnet import realesr_animevideov3
from studies.super_resolution.networks import NETWORKS

LAYERS = ("body.4", "body.12", "body.20", "body.28")
SIZE = 96
"""Side of the layers' output in pixels."""

COSTS = ("flops", "params")
SHARES = (0.6, 0.4, 0.25, 0.1, 0.05)
PLANNED = (0.6, 0.4, 0.25, 0.15, 0.1, 0.05)
"""Shares of one layer's costs, and of the whole network's."""


def main() -> None:
    """Print the mean over the layers of the least error, by kind, cost and share of the dense."""
    torch.set_num_threads(1)
    model = realesr_animevideov3()
    frames = [_errors(weight_of(model, name)) for name in LAYERS]
    for cost in COSTS:
        mean = sum(frame.loc[cost] for frame in frames) / len(frames)
        print(f"\nleast relative error for a share of the layer's {cost}")
        print(mean.reindex(columns=SHARES).sort_values(SHARES[1]).round(3).to_string())
    print("\nlayers of a plan by the kind of their structure")
    print(_chosen(model).to_string(index=False))


def _chosen(model: nn.Module) -> pd.DataFrame:
    """Return for each search and budget how many layers became CP, and how many are divided."""
    network, rows = NETWORKS["animevideov3"], []
    for label in network.searches:
        result, _ = network.search(model, label)
        for budget in (search.Budget(**{cost: share}) for cost in COSTS for share in PLANNED):
            plan = result.plan(budget)
            points = [(structure.family, structure.shapes) for structure in plan.values()]
            n_divided = sum(map(_divides_channels, points))
            n_cp = sum(family == "cp" for family, _ in points)
            rows.append((label, str(budget), len(result.tables), n_cp, n_divided))
    columns = ["search", "budget", "layers", "CP", "channels divided"]
    return pd.DataFrame(rows, columns=columns)


def _errors(weight: torch.Tensor) -> pd.DataFrame:
    """Return the least errors of a weight: a row for each cost and kind, a column for a share."""
    geometry = Geometry.of(tuple(weight.shape), (SIZE, SIZE))
    spectra = Spectra(weight, (geometry,))
    least: dict[tuple[str, str], dict[float, float]] = defaultdict(dict)
    for kind, point in _points(tuple(weight.shape)):
        curve = spectra.curve(*point)
        costs = {
            "flops": curve.flops / spectra.dense_flops,
            "params": curve.params / spectra.dense_params,
        }
        for cost, shares in costs.items():
            known = least[cost, kind]
            for share in SHARES:
                errors = curve.errors[shares <= share]
                if len(errors):
                    known[share] = min(float(errors.min()), known.get(share, 1.0))
    return pd.DataFrame.from_dict(least, orient="index")


def _points(shape: tuple[int, ...]) -> Iterator[tuple[str, Point]]:
    """Yield what practitioners write, what the search enumerates, and all that two factors can."""
    yield "Tucker-2", tucker2(shape)
    yield "spatial SVD", spatial_svd(shape)
    yield "channel SVD", channel_svd(shape)
    space = Space(shape)
    for point in space.templates():
        yield "CP" if point[0] == "cp" else "templates without CP", point
    for point in space.pairs():
        if _divides_channels(point):
            yield "two factors, channels divided", point


def _divides_channels(point: Point) -> bool:
    return any(sum(shape[mode] > 1 for shape in point[1]) > 1 for mode in (0, 1))


if __name__ == "__main__":
    main()
