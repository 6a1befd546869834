"""How deeply each layer is searched: what matters little gets few proposals."""

from __future__ import annotations

import math

from sekron.profiling.network_profile import LayerProfile, NetworkProfile

FULL_SHARE = 0.01
"""Share of the network's FLOPs or of its parameters from which a layer gets all proposals."""


def n_trials_of(layer: LayerProfile, profile: NetworkProfile, most: int) -> int:
    """Return the number of structures that are proposed for a layer.

    It follows from shapes alone, so that the same seed means the same trials. However many layers
    a network has, all together get no more than those of some two hundred large ones.

    Args:
        layer: A searched layer.
        profile: Of the network.
        most: Proposals of a layer with at least `FULL_SHARE` of FLOPs or parameters.
    """
    share = max(layer.flops / max(profile.flops, 1), layer.params / max(profile.params, 1))
    return math.ceil(most * min(share / FULL_SHARE, 1.0))
