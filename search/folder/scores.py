"""What a user's score said of networks, as a run folder records it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from sekron.decomposition.decompose import Decomposition, decompose
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan, PlanRecord
from sekron.records import decode, encode

FORMAT, VERSION = "sekron.scores", 2


@dataclass(frozen=True, slots=True)
class Scores:
    """All scores of a search, by one function on one set of data; another score makes another one.

    Attributes:
        dense: Of the dense network; another score of it means another function or other data.
        networks: Digest of a plan's structures -> the plan and its score, which is the same in
            whatever form its layers run.
        winners: Digest of a question -> the best plan for its budget.
    """

    dense: float
    networks: Mapping[str, tuple[Plan, float]] = field(default_factory=dict)
    winners: Mapping[str, Plan] = field(default_factory=dict)

    @property
    def plans(self) -> list[Plan]:
        """The plans whose networks were scored."""
        return [plan for plan, _ in self.networks.values()]

    def of(self, plan: Plan) -> float:
        """Return the score of a plan's network, NaN where it was not scored."""
        if not plan:
            return self.dense
        return self.networks.get(_digest(plan), (plan, math.nan))[1]

    def with_network(self, plan: Plan, score: float) -> Scores:
        """Return scores that have the one of one more network."""
        return replace(self, networks={**self.networks, _digest(plan): (plan, score)})

    def with_winner(self, question: str, plan: Plan) -> Scores:
        """Return scores that know which plan is the best for a budget."""
        return replace(self, winners={**self.winners, question: plan})

    def to_json(self) -> str:
        """Return the scores as text."""
        networks = [
            _Scored(plan.to_record(), value if math.isfinite(value) else None)
            for plan, value in self.networks.values()
        ]
        winners = {question: plan.to_record() for question, plan in self.winners.items()}
        return encode(_Scores(self.dense, networks, winners), FORMAT, VERSION, is_sealed=True)

    @classmethod
    def from_json(
        cls,
        text: str | bytes,
        source: str,
        metrics: NetworkMetric,
        decomposition: Decomposition = decompose,
    ) -> Scores:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            source: What to call it in an error.
            metrics: That the plans were made in.
            decomposition: Gives the factors when one of them is applied.

        Raises:
            ValueError: If it is damaged, or its plans were made in another metric.
        """
        record = decode(text, _Scores, FORMAT, (VERSION,), source)

        def read(plan: PlanRecord) -> Plan:
            try:
                return Plan.from_record(plan, source).within(metrics, decomposition)
            except ValueError as error:
                raise ValueError(f"{source} is damaged: {error}") from error

        plans = [(read(entry.plan), entry.score) for entry in record.networks]
        return cls(
            record.dense,
            {_digest(plan): (plan, -math.inf if score is None else score) for plan, score in plans},
            {question: read(plan) for question, plan in record.winners.items()},
        )


def _digest(plan: Plan) -> str:
    return Plan(plan).digest


class _Scored(msgspec.Struct):
    plan: PlanRecord
    score: float | None
    """None where it was no number, which is worst."""


class _Scores(msgspec.Struct):
    dense: float
    networks: list[_Scored]
    winners: dict[str, PlanRecord]
