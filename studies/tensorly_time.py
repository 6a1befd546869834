"""How long TensorLy takes to decompose a network once, at one set of ranks."""

import math
import time

from torch import nn

import baselines
from sekron.network.opening import opened
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import NetworkProfile


def tensorly_seconds(
    model: nn.Module, profile: NetworkProfile, max_seconds: float = math.inf
) -> tuple[dict[str, float], int]:
    """Time TensorLy's Tucker and CP over all searched layers.

    Tucker keeps half of both channel modes and the whole kernel, CP as many terms as hold a
    quarter of the weight. Its own defaults decide how long it iterates, a hundred sweeps at most.

    Args:
        model: The dense network.
        profile: Of the network.
        max_seconds: After which no other layer is begun.

    Returns:
        Name of the decomposition -> seconds, and for how many layers.
    """
    model = opened(model, [layer.name for layer in profile.searched])
    seconds, done = {"tucker": 0.0, "cp": 0.0}, 0
    for layer in profile.searched:
        if sum(seconds.values()) > max_seconds:
            break
        done += 1
        weight = weight_of(model, layer.name)
        out_channels, in_channels, *kernel = weight.shape
        start = time.perf_counter()
        baselines.tucker(weight, (max(1, out_channels // 2), max(1, in_channels // 2), *kernel))
        middle = time.perf_counter()
        rank = max(1, weight.numel() // 4 // sum(weight.shape))
        baselines.cp(weight, rank, max_seconds=float("inf"))
        seconds["tucker"] += middle - start
        seconds["cp"] += time.perf_counter() - middle
    return seconds, done
