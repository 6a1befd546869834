"""Search a network's factorization under budgets: `run`, then read the front and apply the plan."""

from search.clock.race import Comparison, Latency, compare, latency
from search.front.result import SearchResult
from search.pipeline.join import join
from search.pipeline.load import load
from search.pipeline.run import run
from search.verification.verify import Finding, verify
from sekron.budget import Budget, InfeasibleBudget
from sekron.profiling.profile import profile
from sekron.training.funnel import FunnelResult, funnel

__all__ = [
    "Budget",
    "Comparison",
    "Finding",
    "FunnelResult",
    "InfeasibleBudget",
    "Latency",
    "SearchResult",
    "compare",
    "funnel",
    "join",
    "latency",
    "load",
    "profile",
    "run",
    "verify",
]
