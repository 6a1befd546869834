"""What a user's score said of networks: a record, and how one more network is scored."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from search.folder import RunFolder
from search.records import document, reading
from sekron.batches import Batches
from sekron.budget import Budget, InfeasibleBudget
from sekron.calibration import norms_with_statistics, recalibrate
from sekron.plan import Plan

FORMAT, VERSION = "sekron.scores", 1

FILE = "scores.json"
"""In a run folder."""

Score = Callable[[nn.Module], float]


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


class Judge:
    """Scores the networks of plans, each once.

    Args:
        model: The dense network; copies of it are scored.
        score: Of a network in evaluation mode; more is better.
        batches: Unlabelled, to re-estimate batch norm with before a network is scored, again and
            again; None to score it as it was decomposed.
        folder: That keeps the scores, or None.

    Raises:
        ValueError: If the score of the dense network is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score,
        batches: Batches | None,
        folder: RunFolder | None,
    ) -> None:
        self._model, self._score, self._folder = model, score, folder
        self._batches = batches if norms_with_statistics(model) else None
        if norms_with_statistics(model) and batches is None:
            warnings.warn(
                "networks are scored without re-estimated batch norm, since there is no "
                "`calibration` to do it with.",
                stacklevel=5,
            )
        dense = float(score(copy.deepcopy(model).eval()))
        if not math.isfinite(dense):
            raise ValueError(f"`score` must be finite, got {dense} for the dense network.")
        known = None if folder is None else recorded(folder)
        if known is not None and known.dense != dense:
            warnings.warn(
                f"the scores in {folder and folder.path} are of another score or other data (the "
                f"dense network had {known.dense:g}, now {dense:g}); networks are scored anew.",
                stacklevel=5,
            )
            known = None
        self.scores = known or Scores(dense)

    def check(self, budget: Budget) -> None:
        """Refuse a least score that the dense network does not have.

        Raises:
            InfeasibleBudget: With the score of the dense network.
        """
        if budget.min_score is not None and self.scores.dense < budget.min_score:
            raise InfeasibleBudget(
                f"`min_score` must be at most the dense network's {self.scores.dense:g}, got "
                f"{budget.min_score:g}."
            )

    def __call__(self, plan: Plan) -> float:
        """Return the score of a plan's network; NaN counts as the worst."""
        known = self.scores.of(plan)
        if math.isnan(known):
            small = plan.apply(self._model).eval()
            if self._batches is not None:
                recalibrate(small, self._batches)
            value = float(self._score(small))
            known = -math.inf if math.isnan(value) else value
            self.scores.networks[plan.to_json()] = known
            self._save()
        return known

    def crown(self, key: str, plan: Plan) -> None:
        """Record the best plan for a budget."""
        self.scores.winners[key] = plan.to_json()
        self._save()

    def _save(self) -> None:
        if self._folder is not None:
            self._folder.write(FILE, self.scores.to_json() + "\n")
