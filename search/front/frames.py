"""Layers, candidates and fronts as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.choices import Member
from search.front.layer_options import LayerOptions
from sekron.budget import RESOURCES
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.table import CandidateTable
from sekron.structures.structure import Structure

NOTHING_FOUND = "no structure that was found costs less"
"""Why a layer stays dense that was searched."""


def layers_frame(
    profile: NetworkProfile, tables: Mapping[str, CandidateTable] | None = None
) -> pd.DataFrame:
    """Return `SearchResult.layers` of a profile, before any search or with what one found."""
    barren = {name for name, table in (tables or {}).items() if not len(table)}
    reasons = {
        layer.name: NOTHING_FOUND if layer.name in barren else layer.reason
        for layer in profile.layers
    }
    rows = [
        {
            "layer": layer.name,
            "kind": layer.kind,
            "weight_shape": layer.weight_shape,
            "calls": len(layer.calls),
            "flops": layer.flops,
            "params": layer.params,
            "flops_share": layer.flops / profile.flops if profile.flops else 0.0,
            "params_share": layer.params / profile.params if profile.params else 0.0,
            "status": "dense" if reasons[layer.name] else "searched",
            "reason": reasons[layer.name],
        }
        for layer in profile.layers
    ]
    return pd.DataFrame(rows)


def candidates_frame(
    layer: LayerProfile, table: CandidateTable, options: LayerOptions
) -> pd.DataFrame:
    """Return the candidates of one layer, the dense one first."""
    structures = [table.structure(row) for row in range(len(table))]
    structures.append(Structure.dense(layer.weight_shape, layer.groups))
    dense_first = np.roll(np.arange(len(structures)), 1)
    frame = pd.DataFrame(
        {
            "layer": layer.name,
            "structure": [str(structure) for structure in structures],
            "family": [structure.family for structure in structures],
            "sequence_length": [structure.length for structure in structures],
            "error": np.append(table.errors, 0.0),
            "flops": options.flops,
            "params": options.params,
        }
    )
    if not np.isnan(options.ms[-1]):
        frame["latency_ms"] = options.ms
        frame["speedup"] = options.ms[-1] / options.ms
    return frame.iloc[dense_first]


def front_frame(
    members: list[Member],
    profile: NetworkProfile,
    timetable: Timetable | None,
    scores: Scores | None,
) -> pd.DataFrame:
    """Return one row per plan; times and scores only where there are any."""
    rows = []
    effect = None if timetable is None else timetable.effect()
    for member in members:
        row: dict[str, object] = {"plan": member.plan, "error": member.error}
        for resource in RESOURCES:
            row[resource] = member.used[resource]
            row[f"{resource}_ratio"] = member.used[resource] / profile.dense(resource)
        if timetable is not None and effect is not None:
            measured = timetable.of(member.plan)
            ratio = np.nan if measured is None else measured.ratio
            row["predicted_ms"] = timetable.network_ms * effect.ratio(
                member.saved, len(member.plan)
            )
            row["latency_ms"] = timetable.network_ms * ratio
            row["speedup"] = 1.0 / ratio
            row["activations"] = np.nan if measured is None else measured.activations
        if scores is not None:
            row["score"] = scores.of(member.plan)
        rows.append(row)
    return pd.DataFrame(rows)
