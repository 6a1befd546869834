"""How deeply each layer is searched: what matters little gets few proposals."""

from __future__ import annotations

import math

from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.rank_grid import CP_RANKS

FULL_SHARE = 0.01
"""Share of the network's FLOPs or of its parameters from which a layer gets all proposals."""


FEWEST_RANKS = CP_RANKS // 2
"""Ranks at which a `cp` is fitted of a layer that matters least: where there are hundreds of such
layers, each choice among them is a small step."""


def n_trials_of(layer: LayerProfile, profile: NetworkProfile, most: int) -> int:
    """Return the number of structures that are proposed for a layer.

    It follows from shapes alone, so that the same seed means the same trials. However many layers
    a network has, all together get no more than those of some two hundred large ones.

    Args:
        layer: A searched layer.
        profile: Of the network.
        most: Proposals of a layer with at least `FULL_SHARE` of FLOPs or parameters.
    """
    return math.ceil(most * _weight(layer, profile))


def n_cp_ranks_of(layer: LayerProfile, profile: NetworkProfile) -> int:
    """Return at how many ranks a `cp` of a layer is fitted, at most; each of them takes time.

    Args:
        layer: A searched layer.
        profile: Of the network.
    """
    return max(math.ceil(CP_RANKS * _weight(layer, profile)), FEWEST_RANKS)


def _weight(layer: LayerProfile, profile: NetworkProfile) -> float:
    """Return how much a layer matters, 1 from `FULL_SHARE` on."""
    share = max(layer.flops / max(profile.flops, 1), layer.params / max(profile.params, 1))
    return min(share / FULL_SHARE, 1.0)
