"""Kronecker sequences: factorize the layers of a trained network, and run them without rebuilding.

Reference:
    Hameed, Mosleh, Tahaei, Partovi Nia, SeKron, arXiv 2210.06299.
"""

from sekron.decomposition.decompose import decompose, reconstruct, refine
from sekron.decomposition.errors import relative_error
from sekron.export.files import Exported, export_onnx, export_openvino, export_program
from sekron.export.refusal import CannotRun
from sekron.layers.conv import SeKronConv, SeKronConv2d
from sekron.layers.linear import SeKronLinear
from sekron.layers.transposed import SeKronConvTranspose
from sekron.network.checkpoint import load, save
from sekron.network.eligibility import register
from sekron.network.plain import to_plain
from sekron.network.plan import Plan
from sekron.structures.structure import Structure
from sekron.training.batch_norm import recalibrate
from sekron.training.finetune import finetune
from sekron.training.recipe import Recipe
from sekron.training.refit import refit
from sekron.training.repair import Repair, repair
from sekron.training.tune import tune

__all__ = [
    "CannotRun",
    "Exported",
    "Plan",
    "Recipe",
    "Repair",
    "SeKronConv",
    "SeKronConv2d",
    "SeKronConvTranspose",
    "SeKronLinear",
    "Structure",
    "decompose",
    "export_onnx",
    "export_openvino",
    "export_program",
    "finetune",
    "load",
    "recalibrate",
    "reconstruct",
    "refine",
    "refit",
    "register",
    "relative_error",
    "repair",
    "save",
    "to_plain",
    "tune",
]
