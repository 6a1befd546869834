"""Who proposes the next structure of a layer: our own sampler, and Optuna's for comparison."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.per_layer.neighbourhoods import Neighbourhoods
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
    for each trial, from the seed and its number, so that a search that was interrupted
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
        self._near = Neighbourhoods(space)
        self._scored: list[int] = []

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return all parameters; a proposal fills those of its length."""
        return dict(self._space.distributions())

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the proposal; nothing when all that is near was scored."""
        draw = self._draw(trial)
        points = self._table.points
        areas = {mix: self._table.exclusive_areas(mix) for mix in MIXES}
        on_front = [points[index] for shares in areas.values() for index in shares]
        for mix in draw.sample(VOTERS, k=len(VOTERS)):
            votes = {points[index]: share**VOTE for index, share in areas[mix].items()}
            elected = self._elected(votes, on_front)
            if elected is not None:
                return dict(self._space.params(elected))
        scored = set(points)
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
        return self._draw(trial, param_name).randint(low, high)

    def _draw(self, trial: FrozenTrial, purpose: str = "") -> random.Random:
        return random.Random(f"{self._seed}/{trial.number}/{purpose}")

    def _elected(self, votes: dict[Point, float], on_front: list[Point]) -> Point | None:
        """Return the point to be scored next, None if all neighbours of the voters were scored.

        Args:
            votes: Point on a front -> weight of its vote for each of its neighbours.
            on_front: The points on any front: they were the successes.
        """
        near = self._near
        voters = [near.of(near.number(point)) for point in votes]
        self._scored += map(near.number, self._table.points[len(self._scored) :])
        named = np.concatenate([np.zeros(0, dtype=np.int64), *voters])
        weights = np.repeat(list(votes.values()), list(map(len, voters)))
        is_fresh = ~near.marked(self._scored)[named]
        fresh, first, places = np.unique(named[is_fresh], return_index=True, return_inverse=True)
        if not len(fresh):
            return None
        received = np.bincount(places, weights[is_fresh])
        by_mention = np.argsort(first)
        most_voted = by_mention[np.argsort(received[by_mention], kind="stable")][-N_CONSIDERED:]
        considered = [near.of(int(number)) for number in fresh[most_voted]]
        named = np.concatenate(considered)
        places = np.repeat(np.arange(len(considered)), list(map(len, considered)))
        tried, successes = (
            np.bincount(places, near.marked(numbers)[named], minlength=len(considered))
            for numbers in (self._scored, map(near.number, on_front))
        )
        success = (successes + PRIOR[0]) / (tried + PRIOR[1])
        best = int(np.argmax(np.sqrt(received[most_voted]) * success))
        return near.points[int(fresh[most_voted[best]])]


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
