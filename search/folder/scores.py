"""What a user's score said of networks, as a run folder records it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

from search.folder.run_folder import RunFolder
from sekron.network.plan import Plan
from sekron.records import document, reading

FORMAT, VERSION = "sekron.scores", 1

FILE = "scores.json"
"""In a run folder."""


@dataclass(slots=True)
class Scores:
    """All scores of a search, by one function on one set of data.

    Attributes:
        dense: Of the dense network; another score of it means another function or other data.
        networks: Plan as JSON -> score.
        winners: `SearchResult.key` -> the best plan for that budget, as JSON.
    """

    dense: float
    networks: dict[str, float] = field(default_factory=dict)
    winners: dict[str, str] = field(default_factory=dict)

    def of(self, plan: Plan) -> float:
        """Return the score of a plan's network, NaN where it was not scored."""
        return self.networks.get(plan.to_json(), math.nan) if plan else self.dense

    def to_json(self) -> str:
        """Return the scores as text."""
        document = {
            "format": FORMAT,
            "version": VERSION,
            "dense": self.dense,
            "networks": self.networks,
            "winners": self.winners,
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str) -> Scores:
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it is damaged; the message names `source`.
        """
        with reading(source):
            data = document(text, FORMAT, VERSION)
            scores = cls(
                float(data["dense"]),
                {str(plan): float(score) for plan, score in data["networks"].items()},
                {str(key): str(plan) for key, plan in data["winners"].items()},
            )
            for plan in (*scores.networks, *scores.winners.values()):
                Plan.from_json(plan)
            return scores


def recorded(folder: RunFolder) -> Scores | None:
    """Return the scores of a run folder, or None if there are none.

    Raises:
        ValueError: If they are damaged.
    """
    path = folder.path / FILE
    if not path.exists():
        return None
    return Scores.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
