"""A plan in the few numbers that everybody asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from search.front.result import SearchResult
from sekron.network.plan import Plan


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan of a search makes of the network.

    Attributes:
        plan: Digest of the plan.
        layers: Layers that it replaces.
        all_layers: Convolutions and linear layers of the network.
        flops: Of the network under the plan, for one image.
        flops_ratio: Those over the dense network's.
        params: Numbers of the network under the plan.
        params_ratio: Those over the dense network's.
        error: Of the plan, as in `SearchResult.pareto_front`.
        speedup: Measured time of the dense network over that of the plan; None if it was not
            measured, or the interval is too wide to tell.
        score: Of the plan; None if it was not scored.
        dense_score: Of the dense network; None if nothing was scored.
    """

    plan: str
    layers: int
    all_layers: int
    flops: int
    flops_ratio: float
    params: int
    params_ratio: float
    error: float
    speedup: float | None
    score: float | None
    dense_score: float | None

    @classmethod
    def of(cls, result: SearchResult, plan: Plan) -> Outcome:
        """Return the outcome of a search for one of its plans."""
        profile, scores, timetable = result.profile, result.scores, result.timetable
        totals = profile.totals(plan)
        measured = None if timetable is None else timetable.of(plan)
        speedup = math.nan if measured is None else measured.speedup
        score = math.nan if scores is None else scores.of(plan)
        return cls(
            plan=plan.digest,
            layers=len(plan),
            all_layers=len(profile.layers),
            flops=totals["flops"],
            flops_ratio=totals["flops"] / profile.flops if profile.flops else 1.0,
            params=totals["params"],
            params_ratio=totals["params"] / profile.params,
            error=result.choices.as_it_is(plan).error,
            speedup=None if math.isnan(speedup) else speedup,
            score=None if math.isnan(score) else score,
            dense_score=None if scores is None else scores.dense,
        )

    def __str__(self) -> str:
        told = [
            f"{self.layers} of {self.all_layers} layers replaced",
            f"{self.flops:,} FLOPs ({self.flops_ratio:.1%})",
            f"{self.params:,} parameters ({self.params_ratio:.1%})",
            f"error {self.error:.4g}",
        ]
        if self.speedup is not None:
            told.append(f"{self.speedup:.2f} times as fast as dense, measured")
        if self.score is not None:
            told.append(f"score {self.score:.4g} (dense {self.dense_score:.4g})")
        return ", ".join(told)
