"""How one more network is scored: decomposed, its batch norm re-estimated, and kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from search.folder.scores import Scores
from sekron.budget import Budget, InfeasibleBudget
from sekron.forward.batches import Batches
from sekron.forward.evaluation import Score
from sekron.network.copying import copy_of
from sekron.network.plan import Plan
from sekron.training.batch_norm import norms_with_statistics, recalibrate

SAME = 1e-6
"""Relative difference of the dense network's scores up to which they are one: the last digits
change with the threads and the machine."""


RE_ESTIMATED = "images that batch norm is re-estimated with for a score"
"""What a search notes for its workers: `Judge.n_images` of its own."""


class Judge:
    """Scores the networks of plans, each once.

    Args:
        model: The dense network; copies of it are scored.
        score: Of a network in evaluation mode; more is better.
        batches: Unlabelled, to re-estimate batch norm with before a network is scored, again and
            again; None to score it as it was decomposed.
        recorded: Scores of an earlier search, or None.
        keep: Called with the scores after every network.
        warn: Called where batch norm cannot be re-estimated, and where the record is of no use.

    Raises:
        ValueError: If the score of the dense network is not finite.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score,
        batches: Batches | None,
        recorded: Scores | None,
        keep: Callable[[Scores], None],
        warn: Callable[[str], None],
    ) -> None:
        self._model, self._score, self._keep = model, score, keep
        self._batches = batches if norms_with_statistics(model) else None
        if norms_with_statistics(model) and batches is None:
            warn(
                "networks are scored without re-estimated batch norm, since there is no "
                "`calibration` to do it with."
            )
        dense = self._rated(copy_of(model).eval())
        if not math.isfinite(dense):
            raise ValueError(f"`score` must be finite, got {dense} for the dense network.")
        self._scores = Scores(dense)
        if recorded is not None and self.agree(recorded.dense):
            self._scores = recorded
        elif recorded is not None:
            warn(
                "the scores in the run folder are of another score or other data (the dense "
                f"network had {recorded.dense!r}, now {dense!r}); networks are scored anew."
            )

    @property
    def n_images(self) -> int:
        """Images that batch norm is re-estimated with before a network is scored; 0 for none."""
        return 0 if self._batches is None else sum(map(len, self._batches))

    @property
    def scores(self) -> Scores:
        """All scores so far."""
        return self._scores

    def agree(self, dense: float) -> bool:
        """Take over the dense network's score of other runs, by which their scores are found.

        Returns:
            Whether it is that of this one, but for its last digits.
        """
        is_same = math.isclose(dense, self._scores.dense, rel_tol=SAME)
        if is_same:
            self._scores = replace(self._scores, dense=dense)
        return is_same

    def check(self, budget: Budget) -> None:
        """Refuse a least score that the dense network does not have.

        Raises:
            InfeasibleBudget: With the score of the dense network.
        """
        if budget.min_score is not None and self._scores.dense < budget.min_score:
            raise InfeasibleBudget(
                f"`min_score` must be at most the dense network's {self._scores.dense!r}, got "
                f"{budget.min_score!r}."
            )

    def __call__(self, plan: Plan) -> float:
        """Return the score of a plan's network; what is not finite counts as the worst."""
        score = self._scores.of(plan)
        if not math.isnan(score):
            return score
        small = plan.apply(self._model).eval()
        if self._batches is not None:
            recalibrate(small, self._batches)
        value = self._rated(small)
        value = value if math.isfinite(value) else -math.inf
        self._set(self._scores.with_network(plan, value))
        return value

    def learn(self, plan: Plan, score: float) -> None:
        """Take over a score of a plan's network that another worker has found."""
        if plan:
            self._scores = self._scores.with_network(plan, score)

    def crown(self, question: str, plan: Plan) -> None:
        """Record the best plan for a budget."""
        self._set(self._scores.with_winner(question, plan))

    def _rated(self, network: nn.Module) -> float:
        value = self._score(network)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`score` must return a number, got {type(value).__name__}."
            ) from error

    def _set(self, scores: Scores) -> None:
        self._scores = scores
        self._keep(scores)
