"""Structures that divide a kernel between factors, beside those that keep it whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

import numpy as np
import pandas as pd
from torch import nn

from search.front.result import SearchResult
from search.per_layer.space import canonical, factorizations
from sekron.network.surgery import weight_of
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import Point, Shape
from sekron.structures.structure import Structure

COLUMNS = (
    *("layer", "budget", "flops", "chosen"),
    *("whole", "error_whole", "divided", "error_divided"),
)

Found = tuple[int, float, Structure]
"""FLOPs, error and structure of a candidate."""


def pairs_along_time(weight_shape: Shape) -> Iterator[Point]:
    """Yield the structures of two factors with whole channels, the kernel whole or divided.

    Their errors are exact in a metric too.

    Args:
        weight_shape: `(out, in, taps, 1)`.
    """
    n_outputs, n_inputs, n_taps, _ = weight_shape
    seen = set()
    for taps, home_out, home_in in product(factorizations(n_taps, 2), (0, 1), (0, 1)):
        shapes = tuple(
            (n_outputs if k == home_out else 1, n_inputs if k == home_in else 1, taps[k], 1)
            for k in (0, 1)
        )
        seen.add(canonical("sekron", shapes))
    yield from sorted(point for point in seen if point is not None)


def beside_divided(
    model: nn.Module, result: SearchResult, plans: Mapping[str, Mapping[str, Structure]]
) -> pd.DataFrame:
    """Return, per replaced convolution, the best that keeps its kernel whole, and that divides it.

    Of the search's candidates and all of `pairs_along_time`, within the FLOPs of what was chosen.

    Args:
        model: The dense network.
        result: Of its search.
        plans: Budget -> layer name -> structure: plans of that search.

    Returns:
        `layer`, `budget`, the `flops` of the structure `chosen`; the structure with a `whole`
        kernel that has the least error within those FLOPs, and that error, in the metric of the
        search; likewise with a `divided` kernel.
    """
    rows = []
    for layer in result.profile.searched:
        if len(layer.block_shape) != 4 or not any(layer.name in plan for plan in plans.values()):
            continue
        table = result.tables[layer.name]
        found: list[Found] = [
            (int(table.flops[row]), float(table.errors[row]), table.structure(row))
            for row in range(len(table))
        ]
        spectra = Spectra(weight_of(model, layer.name), layer.calls, result.metrics.get(layer.name))
        for point in pairs_along_time(layer.block_shape):
            curve = spectra.curve(*point)
            found += [
                (int(curve.flops[row]), float(curve.errors[row]), curve.structure(row))
                for row in range(len(curve.errors))
            ]
        for budget, plan in plans.items():
            if layer.name in plan:
                chosen = plan[layer.name]
                flops = next(own[0] for own in found if own[2] == chosen)
                best = (_best(found, flops, divided=is_divided) for is_divided in (False, True))
                rows.append((layer.name, budget, flops, str(chosen), *next(best), *next(best)))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _best(found: list[Found], flops: int, *, divided: bool) -> tuple[str, float]:
    """Return the structure with the least error within FLOPs, and that error."""
    within = [
        (error, str(structure))
        for own, error, structure in found
        if own <= flops and divides_kernel(structure) == divided
    ]
    error, structure = min(within, default=(np.nan, ""))
    return structure, error


def divides_kernel(structure: Structure) -> bool:
    """Return whether more than one factor extends along time."""
    return sum(shape[2] > 1 for shape in structure.shapes) > 1
