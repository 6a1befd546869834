"""Search a network's factorization under budgets: `run`, then read the front and apply the plan."""

from search.funnel import FunnelResult, funnel
from search.latency import Comparison, Latency, compare, latency
from search.loading import load
from search.result import SearchResult
from search.run import run
from sekron.budget import Budget, InfeasibleBudget
from sekron.profiling import profile

__all__ = [
    "Budget",
    "Comparison",
    "FunnelResult",
    "InfeasibleBudget",
    "Latency",
    "SearchResult",
    "compare",
    "funnel",
    "latency",
    "load",
    "profile",
    "run",
]
