"""Who proposes the next structure of a layer: our own sampler, and Optuna's for comparison."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.per_layer.resumed_sampler import ResumedSampler
from search.per_layer.space import Space
from sekron.rank_curves.pareto import MIXES
from sekron.rank_curves.table import CandidateTable
from sekron.structures.families import Point

VOTE = 0.25
"""Power of a point's share of the front in its vote: below 1 so that small shares are heard."""

VOTERS = (0.0, 0.0, 0.25, 0.5, 1.0)
"""Fronts that may vote, by their share of FLOPs; that of parameters holds most structures."""

N_CONSIDERED = 200
"""Structures with the most votes of which the successes of their neighbours are counted."""

PRIOR = (1, 4)
"""Successes and trials that a structure's neighbourhood is credited with before any trial."""


class NeighbourSampler(BaseSampler):
    """Proposes what many points on the front are neighbours of, and few failures.

    Every structure on the front votes for its neighbours that were not scored yet, with a weight
    that grows with the area which only this structure dominates. The root of the votes times the
    share of successes among the neighbours that were scored decides. Which front votes is drawn
    for each trial, from the seed and the trials finished, so that a search that was interrupted
    goes on as if it had not been.

    Args:
        space: The structures of the layer.
        table: Its candidates so far; the study adds to it while it runs.
        seed: Of the draws.
    """

    def __init__(self, space: Space, table: CandidateTable, seed: int) -> None:
        self._space = space
        self._table = table
        self._seed = seed

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all parameters; a proposal fills those of its length."""
        return dict(self._space.distributions())

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the proposal; nothing when all that is near was scored."""
        draw = self._draw(study)
        points = self._table.points
        scored = set(points)
        areas = {mix: self._table.exclusive_areas(mix) for mix in MIXES}
        on_front = {points[index] for shares in areas.values() for index in shares}
        for mix in draw.sample(VOTERS, k=len(VOTERS)):
            votes: defaultdict[Point, float] = defaultdict(float)
            for index, share in areas[mix].items():
                for neighbour in self._space.neighbours(points[index]):
                    if neighbour not in scored:
                        votes[neighbour] += share**VOTE
            if votes:
                most_voted = sorted(votes, key=lambda point: votes[point])[-N_CONSIDERED:]
                return dict(
                    self._space.params(
                        max(
                            most_voted,
                            key=lambda point: (
                                math.sqrt(votes[point]) * self._success(point, scored, on_front)
                            ),
                        )
                    )
                )
        fresh = [point for point in self._space.pairs() if point not in scored]
        return dict(self._space.params(draw.choice(fresh))) if fresh else {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draw one parameter at random; used only when there was no proposal."""
        low, high = param_distribution.low, param_distribution.high  # type: ignore[attr-defined]
        return self._draw(study, param_name).randint(low, high)

    def _draw(self, study: Study, purpose: str = "") -> random.Random:
        # A trial that was killed keeps its number, so finished ones are counted.
        finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return random.Random(f"{self._seed}/{len(finished)}/{purpose}")

    def _success(self, point: Point, scored: set[Point], on_front: set[Point]) -> float:
        """Share of the scored neighbours of a point that are on a front."""
        tried = scored.intersection(self._space.neighbours(point))
        return (len(tried & on_front) + PRIOR[0]) / (len(tried) + PRIOR[1])


def _neighbour(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return NeighbourSampler(space, table, seed)


def _tpe(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return ResumedSampler(lambda drawn: TPESampler(seed=drawn), seed)


def _nsga2(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return ResumedSampler(lambda drawn: NSGAIISampler(seed=drawn), seed)


def _random(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return ResumedSampler(lambda drawn: RandomSampler(seed=drawn), seed)


SAMPLERS: dict[str, Callable[[Space, CandidateTable, int], BaseSampler]] = {
    "neighbour": _neighbour,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": _random,
}
"""Name -> sampler of one layer's study."""
