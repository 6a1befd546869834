"""About how long the search of a layer takes, from its shape."""

from __future__ import annotations

from itertools import chain
from statistics import geometric_mean

from search.per_layer.space import Space
from search.per_layer.work import work_of
from sekron.rank_curves.rank_grid import CP_RANKS

PER_PROPOSAL = 1e-2
"""Seconds of a proposal beside its score."""

N_SAMPLED = 8
"""Templates whose neighbours stand for what is proposed."""


def template_seconds(
    space: Space, groups: int, n_cp_ranks: int = CP_RANKS, in_metric: bool = False
) -> list[float]:
    """Return about how long each template takes, in their order.

    Args:
        space: The structures of a layer.
        groups: Number of groups of its convolution.
        n_cp_ranks: Ranks at which a `cp` is fitted, at most.
        in_metric: Whether errors are measured in a metric.
    """
    seconds, known = [], set()
    for point in space.templates():
        family, shapes = point
        work = work_of(point, shapes[0] not in known, n_cp_ranks, in_metric)
        seconds.append(groups * work.seconds)
        if family != "cp":
            known.add(shapes[0])
    return seconds


def proposal_seconds(space: Space, groups: int, in_metric: bool = False) -> float:
    """Return about how long one proposal takes: a mean over the neighbours of some templates.

    The geometric one, because what is proposed is seldom what takes longest.

    Args:
        space: The structures of a layer.
        groups: Number of groups of its convolution.
        in_metric: Whether errors are measured in a metric.
    """
    templates = space.templates()
    sampled = templates[:: max(len(templates) // N_SAMPLED, 1)]
    near = dict.fromkeys(chain.from_iterable(map(space.neighbours, sampled)))
    seconds = [groups * work_of(point, in_metric=in_metric).seconds for point in near]
    return PER_PROPOSAL + (geometric_mean(seconds) if seconds else 0.0)
