"""How one more network is scored: decomposed, its batch norm re-estimated, and kept."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

from torch import nn

from search.folder.run_folder import RunFolder
from search.folder.scores import FILE, Scores, recorded
from sekron.budget import Budget, InfeasibleBudget
from sekron.forward import Batches
from sekron.network.plan import Plan
from sekron.training.batch_norm import norms_with_statistics, recalibrate

Score = Callable[[nn.Module], float]
"""Of a network; more is better."""


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
