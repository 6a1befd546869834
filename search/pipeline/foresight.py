"""How long a search will take, before its first layer and while it runs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, repeat

import torch

from search.clock.time_limit import DENSE
from search.per_layer.cost import proposal_seconds, template_seconds
from search.per_layer.depth import n_cp_ranks_of, n_trials_of
from search.per_layer.space import Space
from search.pipeline.calibrate import calibration_seconds
from search.pipeline.request import Request
from search.pipeline.side_by_side import threads
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.rank_grid import CP_RANKS

LONG = 60.0
"""Seconds from which a search says beforehand how long it takes."""

PROFILE, CALIBRATION, LAYERS, FRONT = "profile", "calibration", "layers", "front"
DENSE_SCORE, SCORES = "score of the dense network", "scores"
DENSE_CLOCK, CLOCK = "clock, dense network", "clock"
"""Stages of a search, as its progress bar calls them."""

PER_FRONT = 0.2
"""Seconds, about, that a layer adds to a sweep of the front."""

PROBE_SIZE, PROBE_SECONDS = 400, 0.023
"""An eigenvalue problem, and how long it took where the costs were measured."""


@dataclass(frozen=True, slots=True)
class LayerWork:
    """About how long the steps of a layer's search take, in the seconds of the cost model.

    Attributes:
        templates: Of each template.
        proposal: Of each proposal.
        n_trials: Proposals.
    """

    templates: list[float]
    proposal: float
    n_trials: int

    @classmethod
    def of(
        cls,
        space: Space,
        groups: int,
        n_trials: int,
        n_cp_ranks: int = CP_RANKS,
        in_metric: bool = False,
    ) -> LayerWork:
        """Return the work of a layer.

        Args:
            space: Its structures.
            groups: Number of groups of its convolution.
            n_trials: Proposals.
            n_cp_ranks: Ranks at which a `cp` is fitted, at most.
            in_metric: Whether errors are measured in a metric.
        """
        proposal = proposal_seconds(space, groups, in_metric) if n_trials else 0.0
        return cls(template_seconds(space, groups, n_cp_ranks, in_metric), proposal, n_trials)

    @property
    def steps(self) -> Iterator[float]:
        """Of every structure that is scored, in their order."""
        return chain(self.templates, repeat(self.proposal, self.n_trials))

    @property
    def seconds(self) -> float:
        """Of all."""
        return sum(self.templates) + self.n_trials * self.proposal


def work_of_layers(
    layers: Iterable[LayerProfile],
    spaces: Mapping[str, Space],
    profile: NetworkProfile,
    n_trials: int,
    in_metric: bool,
) -> dict[str, LayerWork]:
    """Return layer name -> work; that of layers of one shape is found once.

    Args:
        layers: Those that are searched, equal ones once.
        spaces: Layer name -> its structures.
        profile: Of the network.
        n_trials: Proposals of a layer that counts.
        in_metric: Whether errors are measured in a metric.
    """
    known: dict[tuple[Space, int, int, int], LayerWork] = {}
    found = {}
    for layer in layers:
        depth = n_trials_of(layer, profile, n_trials), n_cp_ranks_of(layer, profile)
        key = spaces[layer.name], layer.groups, *depth
        if key not in known:
            known[key] = LayerWork.of(*key, in_metric)
        found[layer.name] = known[key]
    return found


@cache
def slowness() -> float:
    """Return by how much this machine is slower than where the costs were measured.

    It is as it was when a process asked first.
    """
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(PROBE_SIZE, PROBE_SIZE, generator=generator, dtype=torch.float64)
    seconds = []
    with threads(1):  # as the layers are searched
        for _ in range(3):
            start = time.perf_counter()
            torch.linalg.eigh(matrix @ matrix.mT)
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) / PROBE_SECONDS


def seconds_side_by_side(work: Iterable[LayerWork], n_threads: int) -> float:
    """Return about how long layers take together, in the seconds of the cost model.

    Args:
        work: Of the layers.
        n_threads: Layers at the same time.
    """
    seconds = [own.seconds for own in work]
    return max(sum(seconds) / n_threads, max(seconds, default=0.0))


def announcement(work: Sequence[LayerWork], n_threads: int) -> str:
    """Return what to say before layers are searched; nothing where that does not take long.

    Args:
        work: Of the layers that are searched.
        n_threads: Layers at the same time.
    """
    longest = max((own.seconds for own in work), default=0.0)
    seconds = seconds_side_by_side(work, n_threads)
    taken = slowness() * seconds if seconds else 0.0
    if taken < LONG:
        return ""
    return (
        f"{len(work)} layers take about {in_words(taken)} to search, the longest "
        f"{longest / seconds:.0%} of it; `min_share`, `exclude` or fewer trials (`n_trials`, "
        "`--trials`) make it shorter."
    )


def in_words(seconds: float) -> str:
    """Return a time to one unit: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def foreseen_stages(
    request: Request, profile: NetworkProfile, work: Iterable[LayerWork], is_calibrated: bool
) -> dict[str, float]:
    """Return stage -> about how many seconds it will take, from when a network is profiled.

    What a score takes is known only when the dense network was scored.

    Args:
        request: The search.
        profile: Of the network.
        work: Of the layers that are searched.
        is_calibrated: Whether an earlier search has left its metric.
    """
    slower, seconds = slowness(), {}
    if request.calibration is not None and not is_calibrated:
        seconds[CALIBRATION] = slower * calibration_seconds(profile)
    seconds[LAYERS] = slower * seconds_side_by_side(work, request.n_threads)
    seconds[DENSE_CLOCK] = DENSE * request.measure_seconds
    seconds[CLOCK] = (1.0 - DENSE) * request.measure_seconds
    seconds[FRONT] = slower * PER_FRONT * len(profile.searched)
    return seconds
