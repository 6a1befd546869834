"""Rival decompositions as structures of ours, so that they share our arithmetic."""

from baselines.conversions import from_cp, from_tensor_ring, from_tensor_train, from_tucker
from baselines.decompositions import cp, tensor_ring, tensor_train, tucker
from baselines.templates import BASELINES

__all__ = [
    "BASELINES",
    "cp",
    "from_cp",
    "from_tensor_ring",
    "from_tensor_train",
    "from_tucker",
    "tensor_ring",
    "tensor_train",
    "tucker",
]
