"""Structures that divide a kernel between two factors, beside what the search has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations, product

import numpy as np
import pandas as pd
from torch import nn

from search.front.result import SearchResult
from search.per_layer.space import DEFAULT_FAMILIES, canonical
from sekron.decomposition.decompose import EXACT
from sekron.network.surgery import weight_of
from sekron.rank_curves.curves import RankCurve, Spectra
from sekron.structures.families import Point, Shape
from sekron.structures.structure import Structure

PARTS = (8, 8)
"""Of a kernel of 64 taps: eight that are eight apart, and eight next to each other."""

LENGTHS = (2, 3)
"""Factors of a structure."""

COLUMNS = ("layer", "budget", "flops", "chosen", "error", "divided", "error_divided")


def divided_points(weight_shape: Shape, parts: tuple[int, int] = PARTS) -> Iterator[Point]:
    """Yield the structures with whole channels whose kernel stands in two factors.

    All have exact errors in a metric too; a CP, which is fitted rank by rank, is left out.

    Args:
        weight_shape: `(out, in, taps, 1)`.
        parts: Taps of the one and of the other factor; their product is that of the kernel.
    """
    n_outputs, n_inputs, *_ = weight_shape
    seen = set()
    for length in LENGTHS:
        homes = product(range(length), range(length), permutations(range(length), 2))
        for home_out, home_in, (first, second) in homes:
            taps = {first: parts[0], second: parts[1]}
            shapes = tuple(
                (
                    n_outputs if k == home_out else 1,
                    n_inputs if k == home_in else 1,
                    taps.get(k, 1),
                    1,
                )
                for k in range(length)
            )
            seen |= {canonical(family, shapes) for family in DEFAULT_FAMILIES if family in EXACT}
    yield from sorted(point for point in seen if point is not None)


def beside_divided(
    model: nn.Module, result: SearchResult, plans: Mapping[str, Mapping[str, Structure]]
) -> pd.DataFrame:
    """Return, per replaced convolution, the best structure with a divided kernel at its FLOPs.

    Args:
        model: The dense network.
        result: Of its search.
        plans: Budget -> layer name -> structure: plans of that search.

    Returns:
        `layer`, `budget`, the structure's `flops`, `chosen` and its `error`; `divided`, the
        structure with the least error within those FLOPs, and that error, in the same metric.
    """
    rows = []
    for layer in result.profile.searched:
        if len(layer.block_shape) != 4:
            continue
        spectra = Spectra(weight_of(model, layer.name), layer.calls, result.metrics.get(layer.name))
        curves = [spectra.curve(*point) for point in divided_points(layer.block_shape)]
        for budget, plan in plans.items():
            if layer.name in plan:
                flops, error = _costs(result, layer.name, plan[layer.name])
                best, least = _best_within(curves, flops)
                rows.append((layer.name, budget, flops, str(plan[layer.name]), error, best, least))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _costs(result: SearchResult, name: str, structure: Structure) -> tuple[int, float]:
    """Return FLOPs and error of the candidate that a plan has chosen."""
    table = result.tables[name]
    (row,) = (row for row in range(len(table)) if table.structure(row) == structure)
    return int(table.flops[row]), float(table.errors[row])


def _best_within(curves: Sequence[RankCurve], flops: int) -> tuple[str, float]:
    """Return the structure with the least error within FLOPs, and that error."""
    best, least = "", 1.0  # nothing at all in the layer's place
    for curve in curves:
        within = np.flatnonzero(curve.flops <= flops)
        if len(within) and curve.errors[within].min() < least:
            row = int(within[curve.errors[within].argmin()])
            best, least = str(curve.structure(row)), float(curve.errors[row])
    return best, least
