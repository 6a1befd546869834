"""The rule by which the limits of a budget are tightened after a plan has missed them."""

from __future__ import annotations

from dataclasses import replace

from search.front.choices import Choices
from sekron.budget import RESOURCES, Budget


def next_share(share: float, missed: float, unexplained: float, is_again: bool) -> float:
    """Return by how much the limit of the next plan is tightened, after one has missed it.

    By what the estimate did not foresee of the plan that was measured; where the program has
    proposed a plan that had been measured already, at least by what it misses more than before:

        share ← max(share + [again] · max(missed, 0), measured − predicted)

    Args:
        share: That the last limit was tightened by, of the dense network's time.
        missed: Share of the limit by which the plan exceeds it.
        unexplained: Measured less predicted time, as a share of the dense network's.
        is_again: Whether the plan had been measured before.
    """
    return max(share + max(missed, 0.0) * is_again, unexplained)


def tightened(budget: Budget, share: float, network_ms: float) -> Budget:
    """Take a share of the dense network's time from a budget of latency; others stay.

    Args:
        budget: Perhaps without a limit of latency.
        share: Of the dense network's time; one below 0 is added.
        network_ms: The dense network's time.
    """
    limit = budget.limit_ms(network_ms)
    if limit is None or share == 0.0:
        return budget
    left = max(limit - share * network_ms, 1e-6 * network_ms)
    return replace(budget, latency=None, latency_ms=left, speedup=None)


def tighter(budget: Budget, share: float, choices: Choices) -> Budget:
    """Take a share of the dense network's time from a budget, or of each limit that it has."""
    assert choices.timetable is not None
    if budget.is_clocked or share == 0.0:
        return tightened(budget, share, choices.timetable.network_ms)
    limits = {name: budget.limit(name, getattr(choices.profile, name)) for name in RESOURCES}
    less = {name: int((1.0 - share) * most) for name, most in limits.items() if most is not None}
    return replace(budget, **less)
