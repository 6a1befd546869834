"""What the columns of all frames mean, with their units: the one place where that stands."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

Kind = Literal["text", "count", "share", "number"]

Function = TypeVar("Function", bound=Callable[..., object])

WIDTH = 92
"""Letters of a line that `help` shows."""


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
    "plan": Column("plan", "text", "The `Plan` itself."),
    "row": Column("plan", "count", "Row of the front, by FLOPs."),
    "layers": Column("layers", "count", "Layers that the plan replaces."),
    "error": Column(
        "error",
        "number",
        "No unit. Of a plan: Σ error² over its layers, or after a calibration Σ sensitivity · "
        "error⁴ in the metric. Of a layer: relative, ‖W − Ŵ‖ / ‖W‖, in the metric if there is one.",
    ),
    "flops": Column("FLOPs", "count", "Multiply-adds for one image, as fvcore counts."),
    "flops_ratio": Column("FLOPs share", "share", "FLOPs over the dense network's, 0 to 1."),
    "flops_share": Column(
        "FLOPs before", "share", "Of the dense layer, of the dense network's FLOPs, 0 to 1."
    ),
    "flops_after": Column("FLOPs after", "count", "Multiply-adds of the layer under the plan."),
    "flops_share_after": Column(
        "FLOPs after", "share", "Of the layer under the plan, of the dense network's FLOPs."
    ),
    "params": Column("params", "count", "Numbers that are stored."),
    "params_ratio": Column("params share", "share", "Numbers over the dense network's, 0 to 1."),
    "params_share": Column(
        "params before", "share", "Of the dense layer, of the dense network's numbers, 0 to 1."
    ),
    "params_after": Column("params after", "count", "Numbers of the layer under the plan."),
    "params_share_after": Column(
        "params after", "share", "Of the layer under the plan, of the dense network's numbers."
    ),
    "predicted_ms": Column("predicted ms", "number", "Milliseconds, from the layers' own times."),
    "latency_ms": Column(
        "ms", "number", "Measured milliseconds of a forward pass of the example; NaN where not."
    ),
    "latency_low_ms": Column(
        "ms from", "number", "Milliseconds: the lower end of its 95 % confidence interval."
    ),
    "latency_high_ms": Column(
        "ms to", "number", "Milliseconds: the upper end of its 95 % confidence interval."
    ),
    "speedup": Column(
        "speed-up",
        "number",
        "Time of the dense network, or layer, over this one's; NaN likewise, and where the "
        "interval is wider than 10 % of the time.",
    ),
    "runtime": Column("runtime", "text", "That runs the network."),
    "runtime_version": Column("version", "text", "Of the runtime."),
    "dense_ms": Column("dense ms", "number", "Measured milliseconds of the dense network."),
    "dense_low_ms": Column(
        "dense from", "number", "Milliseconds: the lower end of its 95 % confidence interval."
    ),
    "dense_high_ms": Column(
        "dense to", "number", "Milliseconds: the upper end of its 95 % confidence interval."
    ),
    "activations": Column("activations", "number", "Peak memory of activations, over dense."),
    "score": Column("score", "number", "What the user's function said; more is better."),
    "layer": Column("layer", "text", "Name of the module."),
    "kind": Column("kind", "text", "Class of the module."),
    "weight_shape": Column("weight", "text", "Shape (out, in, kernel extents…)."),
    "calls": Column("calls", "count", "In one forward pass."),
    "status": Column("status", "text", "`searched`, or `dense` for a reason."),
    "reason": Column("dense because", "text", "Why the layer is not searched; empty if it is."),
    "sensitivity": Column("sensitivity", "number", "By which the layer's error counts; no unit."),
    "structure": Column(
        "structure", "text", "Family, shapes of the factors, ranks; empty where it stays dense."
    ),
    "form": Column("form", "text", "How the structure runs."),
    "ms": Column("ms before", "number", "Measured milliseconds of the dense layer."),
    "ms_after": Column("ms after", "number", "Of the structure, from measured ones like it."),
    "family": Column("family", "text", "Which factors share a rank."),
    "sequence_length": Column("factors", "count", "Of the structure."),
    "ranks": Column("ranks", "text", "Sizes of the bonds, a tuple."),
    "structures": Column("structures", "count", "Scored so far."),
    "found": Column(
        "found",
        "share",
        "Of the area of error × FLOPs that the layer's candidates dominate in the end, 0 to 1.",
    ),
    "budget": Column("budget", "text", "That the rival kept."),
    "method": Column("method", "text", "Whose candidates they are."),
    "ranks_by": Column("ranks by", "text", "How one candidate per layer was chosen."),
    "error_in_metric": Column("error in metric", "number", "Σ sensitivity · error⁴, no unit."),
    "score_recalibrated": Column("recalibrated", "number", "Score after `sekron.recalibrate`."),
    "score_repaired": Column("repaired", "number", "Score after `sekron.repair`."),
    "seconds": Column("seconds", "number", "For the candidates, the choice and the factors."),
}
"""Name -> column, of every frame that the project returns."""


def returns_columns(*names: str) -> Callable[[Function], Function]:
    """Return a decorator that ends a function's docstring with what its columns mean.

    Args:
        names: Of all columns that its frame can have.
    """

    def documented(function: Function) -> Function:
        lines = [_line(name) for name in names]
        before = inspect.cleandoc(function.__doc__ or "")
        function.__doc__ = "\n".join([before, "", "Columns:", *lines])
        return function

    return documented


def _line(name: str) -> str:
    text = f"{name}: {COLUMNS[name].meaning}"
    return textwrap.fill(text, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8)
