"""Rival decompositions as structures of ours, and a comparison at equal budgets."""

from baselines.allocations import ALLOCATIONS
from baselines.comparison import compare
from baselines.conversions import from_cp, from_tensor_ring, from_tensor_train, from_tucker
from baselines.decompositions import cp, tensor_ring, tensor_train, tucker
from baselines.layer_candidates import candidates
from baselines.methods import METHODS
from baselines.vbmf import vbmf_rank

__all__ = [
    "ALLOCATIONS",
    "METHODS",
    "candidates",
    "compare",
    "cp",
    "from_cp",
    "from_tensor_ring",
    "from_tensor_train",
    "from_tucker",
    "tensor_ring",
    "tensor_train",
    "tucker",
    "vbmf_rank",
]
