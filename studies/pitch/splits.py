"""Structures that divide a kernel between two factors, beside what the search has chosen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations, product

import numpy as np
import pandas as pd
from torch import nn

from search.front.result import SearchResult
from search.per_layer.space import DEFAULT_FAMILIES, canonical
from sekron.decomposition.decompose import EXACT
from sekron.network.surgery import weight_of
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import Point, Shape
from sekron.structures.structure import Structure

PARTS = (8, 8)
"""Of a kernel of 64 taps: eight that are eight apart, and eight next to each other."""

LENGTHS = (2, 3)
"""Factors of a structure; a CP has one more, with both channels alone."""

COLUMNS = ("layer", "flops", "chosen", "error", "divided", "error_divided")


def divided_points(weight_shape: Shape, parts: tuple[int, int] = PARTS) -> Iterator[Point]:
    """Yield the structures with whole channels whose kernel stands in two factors.

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
    taps = ((1, 1, part, 1) for part in parts)
    yield "cp", ((n_outputs, 1, 1, 1), (1, n_inputs, 1, 1), *taps)


def beside_divided(
    model: nn.Module, result: SearchResult, chosen: Mapping[str, Structure]
) -> pd.DataFrame:
    """Return, per replaced convolution, the best structure with a divided kernel at its FLOPs.

    Args:
        model: The dense network.
        result: Of its search.
        chosen: Layer name -> structure: a plan of that search.

    Returns:
        `layer`, the structure's `flops`, `chosen` and its `error`; `divided`, the structure with
        the least error within those FLOPs, and that error, in the same metric.
    """
    rows = []
    for layer in result.profile.searched:
        if layer.name not in chosen or len(layer.block_shape) != 4:
            continue
        structure = chosen[layer.name]
        spectra = Spectra(weight_of(model, layer.name), layer.calls, result.metrics.get(layer.name))
        ranks = np.array([structure.ranks])
        flops = int(spectra.flops(structure.shapes, structure.bonds, ranks)[0])
        error = _error_of(result, layer.name, structure)
        best, least = "", np.inf
        for point in divided_points(layer.block_shape):
            curve = spectra.curve(*point)
            within = np.flatnonzero(curve.flops <= flops)
            if len(within) and curve.errors[within].min() < least:
                row = within[curve.errors[within].argmin()]
                best, least = str(curve.structure(int(row))), float(curve.errors[row])
        rows.append((layer.name, flops, str(structure), error, best, least))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _error_of(result: SearchResult, name: str, structure: Structure) -> float:
    table = result.tables[name]
    (error,) = (
        float(table.errors[row]) for row in range(len(table)) if table.structure(row) == structure
    )
    return error
