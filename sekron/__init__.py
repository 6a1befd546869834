"""Kronecker sequences: factorize the layers of a trained network, and run them without rebuilding.

Reference:
    Hameed, Mosleh, Tahaei, Partovi Nia, SeKron, arXiv 2210.06299.
"""

from sekron.calibration import recalibrate
from sekron.checkpoint import load, save
from sekron.conv import SeKronConv, SeKronConv2d
from sekron.decomposition import decompose, reconstruct, refine
from sekron.errors import relative_error
from sekron.finetuning import finetune
from sekron.kinds import register
from sekron.linear import SeKronLinear
from sekron.plan import Plan
from sekron.recipe import Recipe
from sekron.refitting import refit
from sekron.structure import Structure
from sekron.transposed import SeKronConvTranspose
from sekron.tuning import tune

__all__ = [
    "Plan",
    "Recipe",
    "SeKronConv",
    "SeKronConv2d",
    "SeKronConvTranspose",
    "SeKronLinear",
    "Structure",
    "decompose",
    "finetune",
    "load",
    "recalibrate",
    "reconstruct",
    "refine",
    "refit",
    "register",
    "relative_error",
    "save",
    "tune",
]
