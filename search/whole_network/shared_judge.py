"""A judge of several workers: what one of them has scored, or is scoring, no other does."""

from __future__ import annotations

import math

from search.whole_network.judge import Judge
from search.workers.claims import Claims
from sekron.network.plan import Plan


class SharedJudge:
    """Scores the networks of plans, each by one worker.

    Args:
        judge: Of this worker.
        claims: What it has in hand.
    """

    def __init__(self, judge: Judge, claims: Claims) -> None:
        self._judge, self._claims = judge, claims

    def __call__(self, plan: Plan, is_in_hand: bool = False) -> float:
        """Return the score of a plan's network; wait for it where another worker is at it.

        Args:
            plan: To score.
            is_in_hand: Whether this worker has claimed it, by a trial.
        """
        if is_in_hand:
            return self._judge(plan)
        if math.isnan(self._judge.scores.of(plan)):
            # The score of the dense network stands for the function and its data.
            what = f"score {self._judge.scores.dense!r} of {plan.digest}"
            self.learn(plan, self._claims.once(what, lambda: self._judge(plan)))
        return self._judge.scores.of(plan)

    def learn(self, plan: Plan, score: float) -> None:
        """Take over a score that another worker has found."""
        if math.isnan(self._judge.scores.of(plan)):
            self._judge.learn(plan, score)
