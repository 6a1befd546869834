"""Rival decompositions as structures of ours, so that they share our arithmetic."""

from baselines.templates import BASELINES

__all__ = ["BASELINES"]
