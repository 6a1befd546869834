"""Why every plan is CP: the least error that each kind of structure has for the same costs.

Of a few layers of the network alone, in the plain norm, where all errors are exact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pandas as pd
import torch

from search.per_layer.space import Space
from sekron.network.surgery import weight_of
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import Point
from sekron.structures.geometry import Geometry
from sekron.structures.templates import channel_svd, spatial_svd, tucker2
from studies.pretrained.srvggnet import realesr_animevideov3

LAYERS = ("body.4", "body.12", "body.20", "body.28")
SIZE = 96
"""Side of the layers' output in pixels."""

SHARES = (0.6, 0.4, 0.25, 0.1, 0.05)


def main() -> None:
    """Print the mean over the layers of the least error, by kind, cost and share of the dense."""
    torch.set_num_threads(1)
    model = realesr_animevideov3()
    frames = [_errors(weight_of(model, name)) for name in LAYERS]
    for cost in ("flops", "params"):
        mean = sum(frame.loc[cost] for frame in frames) / len(frames)
        print(f"\nleast relative error for a share of the layer's {cost}")
        print(mean.reindex(columns=SHARES).sort_values(SHARES[1]).round(3).to_string())


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
    return any(min(shape[mode] for shape in point[1]) > 1 for mode in (0, 1))


if __name__ == "__main__":
    main()
