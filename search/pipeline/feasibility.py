"""Whether a budget can be met at all, known before anything is searched."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from search.per_layer.space import Space
from search.per_layer.study import least_structures
from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options
from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.structures.families import Point


def check_feasible(
    budget: Budget, profile: NetworkProfile, spaces: dict[str, Space], rank_multiple: int = 1
) -> None:
    """Refuse a budget that the cheapest structures of all layers do not meet.

    Those are templates, or of two factors: a search may find longer ones that are cheaper still,
    but need not.

    Args:
        budget: Of the whole network.
        profile: Of the network.
        spaces: The structures of every searched layer.
        rank_multiple: Of which all ranks are multiples.

    Raises:
        InfeasibleBudget: With the least that is reachable and what holds it up.
    """
    if not profile.available(budget):
        return
    try:
        _check(budget, profile, spaces, Space.templates, rank_multiple)
    except InfeasibleBudget:
        # Those that divide channels may be smaller, but there are many.
        _check(budget, profile, spaces, lambda s: [*s.templates(), *s.pairs()], rank_multiple)


def _check(
    budget: Budget,
    profile: NetworkProfile,
    spaces: Mapping[str, Space],
    points_of: Callable[[Space], Sequence[Point]],
    rank_multiple: int,
) -> None:
    available = profile.available(budget)
    options, known = [], {}
    for layer in profile.searched:
        space = spaces[layer.name]
        key = space, layer.calls, layer.flops, layer.params
        if key not in known:
            known[key] = _least_options(layer, points_of(space), rank_multiple)
        options.append(known[key])
    for name, capacity in available.items():
        column = RESOURCES.index(name)
        least = sum(int(option.costs[:, column].min()) for option in options)
        if least > capacity:
            raise InfeasibleBudget(_refusal(budget, name, least, profile))
    columns = [RESOURCES.index(name) for name in available]
    fitting = [Options(option.losses, option.costs[:, columns]) for option in options]
    if options and allocate(fitting, list(available.values())) is None:
        raise InfeasibleBudget(
            f"the limits must be met together, but no structures were found that meet {budget} at "
            "once, though each alone can be met; raise one of them."
        )


def _least_options(layer: LayerProfile, points: Sequence[Point], rank_multiple: int) -> Options:
    structures = least_structures(points, layer.calls, rank_multiple)
    least = [(flops, params) for _, flops, params in structures]
    costs = np.array([*least, (layer.flops, layer.params)], dtype=float)
    return Options(np.zeros(len(costs)), costs)


def _refusal(budget: Budget, name: str, least: int, profile: NetworkProfile) -> str:
    dense, fixed = profile.dense(name), profile.fixed(name)
    skipped = [layer for layer in profile.layers if layer.reason and layer.dense(name)]
    heaviest = max(skipped, key=lambda layer: layer.dense(name), default=None)
    held = f"{fixed / dense:.3f} are not searched"
    if heaviest is not None:
        share = heaviest.dense(name) / dense
        held += f", most of it layer {heaviest.name!r} ({share:.3f}: {heaviest.reason})"
    got = getattr(budget, name)
    return (
        f"`{name}` must leave at least {(fixed + least) / dense:.4f} of the dense network "
        f"({fixed + least:,}), got {got}: {held}; raise the budget or search more layers "
        "with `include`."
    )
