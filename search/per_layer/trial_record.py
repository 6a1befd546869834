"""What a trial keeps of a structure: the ranks and errors on the front, and their checksum."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from search.per_layer.space import Space
from sekron.rank_curves.curves import RankCurve
from sekron.rank_curves.table import FRONTS
from sekron.structures.families import FAMILIES, Point, clipped_ranks, n_ranks
from sekron.structures.flops import flops_of_calls, n_params_of_ranks
from sekron.structures.geometry import Geometry

RANKS, ERRORS, CHECKSUM = "ranks", "errors", "checksum"
"""User attributes of a trial; those of earlier releases have no checksum."""

MOST_ERROR = 10.0
"""Relative error that no fit exceeds; the best of them are below 1."""


def attributes_of(
    params: Mapping[str, int], values: Sequence[float], ranks: Any, errors: Any
) -> dict[str, object]:
    """Return the user attributes of a trial.

    Args:
        params: Of the trial, which stand for its structure.
        values: Of the trial.
        ranks: Of the rows that are kept, one list for each.
        errors: Of the same rows.
    """
    return {RANKS: ranks, ERRORS: errors, CHECKSUM: _checksum(params, values, ranks, errors)}


def point_of(trial: FrozenTrial, space: Space) -> Point | None:
    """Return the structure of a trial, None for the dense weight.

    Raises:
        ValueError: If its parameters stand for none, or its values are none.
    """
    values, length = trial.values, trial.params["length"]
    if length not in range(2, space.max_length + 1):
        raise ValueError(f"its length must be from 2 to {space.max_length}")
    if len(values) != len(FRONTS) or not all(_is_within(value, 1.0) for value in values):
        raise ValueError("its values are none")
    if any(trial.params[name] < 0 for name in space.names(length)):
        raise ValueError("its parameters are none")
    return space.point(trial.params)


def curve_of(trial: FrozenTrial, point: Point, geometries: tuple[Geometry, ...]) -> RankCurve:
    """Return the ranks that a trial kept, with their errors and costs.

    Raises:
        ValueError: If they are not of this structure, or not what was written.
    """
    ranks, errors = trial.user_attrs[RANKS], trial.user_attrs[ERRORS]
    written = trial.user_attrs.get(CHECKSUM)
    if written not in (None, _checksum(trial.params, trial.values, ranks, errors)):
        raise ValueError("it does not have its checksum")
    family, shapes = point
    if len(errors) != len(ranks) or not all(_is_within(error, MOST_ERROR) for error in errors):
        raise ValueError("its errors are none")
    if not all(_are_ranks(row, point) for row in ranks):
        raise ValueError("its ranks are none of its structure")
    bonds = FAMILIES[family](len(shapes))
    rows = np.array(ranks, dtype=np.int64).reshape(-1, n_ranks(family, len(shapes)))
    flops = flops_of_calls(shapes, bonds, rows, geometries)
    groups = geometries[0].groups
    params = groups * n_params_of_ranks(shapes, bonds, rows)
    return RankCurve(family, shapes, rows, np.array(errors, dtype=float), flops, params, groups)


def _checksum(params: Mapping[str, int], values: Sequence[float], ranks: Any, errors: Any) -> str:
    text = json.dumps([sorted(params.items()), list(values), ranks, errors])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_within(value: object, most: float) -> bool:
    return isinstance(value, float | int) and math.isfinite(value) and 0.0 <= value <= most


def _are_ranks(row: Sequence[object], point: Point) -> bool:
    family, shapes = point
    whole = [rank for rank in row if isinstance(rank, int) and rank >= 1]
    return (
        len(whole) == len(row) == n_ranks(family, len(shapes))
        and list(clipped_ranks(family, shapes, whole)) == whole
    )
