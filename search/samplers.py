"""Who proposes the next structure of a layer: our own sampler, and Optuna's for comparison."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from search.space import Space
from search.table import CandidateTable
from sekron.structure import Point

VOTE = 0.25
"""Power of a point's share of the front in its vote: below 1 so that small shares are heard."""

VOTERS = (0.0, 0.0, 0.25, 0.5, 1.0)
"""Fronts that may vote, by their share of FLOPs; that of parameters holds most structures."""

WANDER = 0.1
"""Share of the trials that take any structure of two factors, so that no corner is shut off."""


class NeighbourSampler(BaseSampler):
    """Proposes what most points on the front are neighbours of.

    Every structure on the front votes for its neighbours that were not scored yet, with a weight
    that grows with the area which only this structure dominates; the winner is proposed. Which
    front votes is drawn for each trial, from the seed and the trials finished, so that a
    search that was interrupted goes on as if it had not been.

    Args:
        space: The structures of the layer.
        table: Its candidates so far; the study adds to it while it runs.
        seed: Of the draws.
    """

    def __init__(self, space: Space, table: CandidateTable, seed: int) -> None:
        self._space = space
        self._table = table
        self._seed = seed
        self._pairs = space.pairs()
        self._neighbours: dict[Point, list[Point]] = {}

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
        scored = set(self._table.points)
        fresh = [point for point in self._pairs if point not in scored]
        if fresh and draw.random() < WANDER:
            return dict(self._space.params(draw.choice(fresh)))
        for mix in draw.sample(VOTERS, k=len(VOTERS)):
            votes: dict[Point, float] = {}
            for index, share in exclusive_areas(self._table, mix).items():
                for neighbour in self._neighbours_of(self._table.points[index]):
                    if neighbour not in scored:
                        votes[neighbour] = votes.get(neighbour, 0.0) + share**VOTE
            if votes:
                most = max(votes.values())
                winners = [point for point, vote in votes.items() if vote == most]
                return dict(self._space.params(draw.choice(winners)))
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

    def _neighbours_of(self, point: Point) -> list[Point]:
        if point not in self._neighbours:
            self._neighbours[point] = self._space.neighbours(point)
        return self._neighbours[point]


def exclusive_areas(table: CandidateTable, mix: float) -> dict[int, float]:
    """Return, per structure on a front, the area of error × cost that only its rows dominate.

    Args:
        table: The candidates.
        mix: Share of FLOPs in the cost.

    Returns:
        Index into `table.points` -> area, positive.
    """
    rows = table.front(mix)
    costs, errors = table.costs(mix)[rows], table.errors[rows]
    areas = (np.append(costs[1:], 1.0) - costs) * (np.append(1.0, errors[:-1]) - errors)
    shares: dict[int, float] = {}
    for index, area in zip(table.point[rows], areas, strict=True):
        shares[int(index)] = shares.get(int(index), 0.0) + max(float(area), 0.0)
    return shares


def _neighbour(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return NeighbourSampler(space, table, seed)


def _tpe(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _nsga2(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return NSGAIISampler(seed=seed)


def _random(space: Space, table: CandidateTable, seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


SAMPLERS: dict[str, Callable[[Space, CandidateTable, int], BaseSampler]] = {
    "neighbour": _neighbour,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "random": _random,
}
"""Name -> sampler of one layer's study."""
