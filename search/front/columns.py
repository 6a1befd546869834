"""What the columns of all frames mean, with their units: the one place where that stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "count", "share", "number"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a frame.

    Attributes:
        title: What a table for people calls it.
        kind: How it is written: shares in percent, counts whole, numbers with four digits.
        meaning: What it is, with its unit.
    """

    title: str
    kind: Kind
    meaning: str


COLUMNS = {
    "row": Column("plan", "count", "Row of the front, by FLOPs."),
    "layers": Column("layers", "count", "Layers that the plan replaces."),
    "error": Column("error", "number", "Of a plan: what its layers add. Of a layer: relative."),
    "flops": Column("FLOPs", "count", "Multiply-adds for one image, as fvcore counts."),
    "flops_ratio": Column("FLOPs share", "share", "FLOPs over those of the dense network."),
    "flops_share": Column("FLOPs before", "share", "Of the layer, of the dense network's FLOPs."),
    "flops_after": Column("FLOPs after", "count", "Multiply-adds of the layer under the plan."),
    "flops_share_after": Column(
        "FLOPs after", "share", "Of the layer under the plan, of the dense network's FLOPs."
    ),
    "params": Column("params", "count", "Numbers that are stored."),
    "params_ratio": Column("params share", "share", "Parameters over those of the dense network."),
    "params_share": Column("params before", "share", "Of the layer, of the dense network's."),
    "params_after": Column("params after", "count", "Numbers of the layer under the plan."),
    "params_share_after": Column(
        "params after", "share", "Of the layer under the plan, of the dense network's."
    ),
    "predicted_ms": Column("predicted ms", "number", "Milliseconds, from the layers' own times."),
    "latency_ms": Column("ms", "number", "Measured milliseconds of a forward pass."),
    "speedup": Column("speed-up", "number", "Time of the dense network over that of the plan."),
    "activations": Column("activations", "number", "Peak memory of activations, over dense."),
    "score": Column("score", "number", "What the user's function said; more is better."),
    "layer": Column("layer", "text", "Name of the module."),
    "kind": Column("kind", "text", "Class of the module."),
    "weight_shape": Column("weight", "text", "Shape (out, in, kernel extents…)."),
    "calls": Column("calls", "count", "In one forward pass."),
    "status": Column("status", "text", "`searched`, or `dense` for a reason."),
    "reason": Column("dense because", "text", "Why the layer is not searched."),
    "sensitivity": Column("sensitivity", "number", "By which the layer's error counts."),
    "structure": Column("structure", "text", "Family, shapes of the factors, ranks."),
    "form": Column("form", "text", "How the structure runs."),
    "ms": Column("ms before", "number", "Measured milliseconds of the dense layer."),
    "ms_after": Column("ms after", "number", "Of the structure, from measured ones like it."),
    "family": Column("family", "text", "Which factors share a rank."),
    "sequence_length": Column("factors", "count", "Of the structure."),
    "structures": Column("structures", "count", "Scored so far."),
    "found": Column("found", "share", "Of the layer's final front of error × FLOPs."),
    "budget": Column("budget", "text", "That the rival kept."),
    "method": Column("method", "text", "Whose candidates they are."),
    "ranks_by": Column("ranks by", "text", "How one candidate per layer was chosen."),
    "error_in_metric": Column("error in metric", "number", "Σ sensitivity · error⁴."),
    "score_recalibrated": Column("recalibrated", "number", "Score after `sekron.recalibrate`."),
    "score_repaired": Column("repaired", "number", "Score after `sekron.repair`."),
    "seconds": Column("seconds", "number", "Of making the candidates."),
}
"""Name -> column, of every frame of a `SearchResult` and of a comparison."""
