"""Layers, candidates and fronts as pandas frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from search.clock.times import is_wide
from search.clock.timetable import Timetable
from search.folder.scores import Scores
from search.front.choices import Choices, Member
from search.front.layer_options import LayerOptions
from sekron.budget import RESOURCES
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.pareto import hypervolume
from sekron.rank_curves.table import FRONTS, CandidateTable
from sekron.structures.structure import Structure

LAYERS = (
    *("layer", "kind", "weight_shape", "calls", "flops", "params", "flops_share", "params_share"),
    *("status", "reason", "sensitivity"),
)
OF_A_PLAN = (
    *("structure", "form", "error", "flops_after", "flops_share_after", "params_after"),
    *("params_share_after", "ms", "ms_after"),
)
CANDIDATES = (
    *("layer", "structure", "family", "sequence_length", "error", "flops", "params"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "speedup"),
)
FRONT = (
    *("error", "flops", "flops_ratio", "params", "params_ratio", "predicted_ms", "latency_ms"),
    *("latency_low_ms", "latency_high_ms"),
    *("speedup", "activations", "score"),
)
RUNTIMES = (
    *("runtime", "runtime_version", "dense_ms", "dense_low_ms", "dense_high_ms"),
    *("predicted_ms", "latency_ms"),
    *("latency_low_ms", "latency_high_ms", "speedup"),
)
"""Columns of the frames of a `SearchResult`, the last ones where there is a clock or a score."""

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


def planned_frame(choices: Choices, plan: Plan) -> pd.DataFrame:
    """Return what a plan makes of every layer, as the further columns of `SearchResult.layers`."""
    chosen = dict(zip(choices.tables, choices.choice(plan), strict=True))
    rows = []
    for layer in choices.profile.layers:
        flops, params, error, ms, ms_after = layer.flops, layer.params, 0.0, np.nan, np.nan
        structure = form = ""
        if layer.name in chosen:
            row, options = chosen[layer.name], choices.layers[layer.name]
            params, ms = int(options.params[row]), float(options.ms[-1])
            own = plan.form(layer.name)
            if own == options.forms[row]:
                ms_after = float(options.ms[row])
        if layer.name in plan:
            flops = layer.flops_of(plan[layer.name], own.order)
            error = float(choices.tables[layer.name].errors[row])
            structure, form = str(plan[layer.name]), str(own)
        after: dict[str, object] = {"structure": structure, "form": form, "error": error}
        for resource, used in (("flops", flops), ("params", params)):
            dense = choices.profile.dense(resource)
            after[f"{resource}_after"] = used
            after[f"{resource}_share_after"] = used / dense if dense else 0.0
        if choices.timetable is not None:
            after |= {"ms": ms, "ms_after": ms_after}
        rows.append(after)
    return pd.DataFrame(rows)


def history_frame(tables: Mapping[str, CandidateTable]) -> pd.DataFrame:
    """Return `SearchResult.history` of the candidates of the layers."""
    rows = []
    for name, table in tables.items():
        final = _volume(table, len(table.points))
        for n in sorted({0, *(table.point + 1).tolist(), len(table.points)}):
            found = _volume(table, n) / final if final else 1.0
            rows.append({"layer": name, "structures": n, "found": found})
    return pd.DataFrame(rows, columns=["layer", "structures", "found"])


def _volume(table: CandidateTable, n_points: int) -> float:
    """Return the share of error × FLOPs that candidates of the first structures dominate."""
    found = table.point < n_points
    costs, errors = table.costs(FRONTS[0])[found], table.errors[found]
    return hypervolume(np.append(costs, 1.0), np.append(errors, 0.0))


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
        frame["latency_low_ms"] = options.low_ms
        frame["latency_high_ms"] = options.high_ms
        wide = is_wide(options.low_ms, options.ms, options.high_ms)
        frame["speedup"] = np.where(wide, np.nan, options.ms[-1] / options.ms)
    return frame.iloc[dense_first]


def front_frame(
    members: list[Member],
    profile: NetworkProfile,
    timetable: Timetable | None,
    scores: Scores | None,
) -> pd.DataFrame:
    """Return one row per plan; times and scores only where there are any."""
    rows = []
    for member in members:
        row: dict[str, object] = {"plan": member.plan, "error": member.error}
        for resource in RESOURCES:
            row[resource] = member.used[resource]
            row[f"{resource}_ratio"] = member.used[resource] / profile.dense(resource)
        if timetable is not None:
            row |= _times(member, timetable)
            measured = timetable.of(member.plan)
            row["activations"] = np.nan if measured is None else measured.activations
        if scores is not None:
            row["score"] = scores.of(member.plan)
        rows.append(row)
    return pd.DataFrame(rows)


def runtimes_frame(plan: Plan, choices: Choices, timetables: Sequence[Timetable]) -> pd.DataFrame:
    """Return one row per runtime that was timed, as `SearchResult.runtimes`."""
    rows = []
    for timetable in timetables:
        there = choices.retimed(timetable)
        member = replace(there.member(there.choice(plan)), plan=plan)
        setting = timetable.setting
        told = {
            "runtime": setting.runtime,
            "runtime_version": setting.runtime_version or setting.torch,
            "dense_ms": timetable.network_ms,
            "dense_low_ms": timetable.network_low_ms,
            "dense_high_ms": timetable.network_high_ms,
        }
        rows.append(told | _times(member, timetable))
    return pd.DataFrame(rows, columns=list(RUNTIMES))


def _times(member: Member, timetable: Timetable) -> dict[str, float]:
    """Return the predicted and, where it was measured, the measured time of a plan."""
    measured, dense_ms = timetable.of(member.plan), timetable.network_ms
    ratio, low, high, speedup = 4 * (np.nan,)
    if measured is not None and measured.runs:
        ratio, low, high = measured.ratio, measured.low, measured.high
        speedup = measured.speedup
    return {
        "predicted_ms": dense_ms * timetable.effect().ratio(member.saved, len(member.plan)),
        "latency_ms": dense_ms * ratio,
        "latency_low_ms": dense_ms * low,
        "latency_high_ms": dense_ms * high,
        "speedup": speedup,
    }
