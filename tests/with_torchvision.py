"""Run a module as `python -m` would, with a torchvision that imports beside a CPU torch.

The wheel of torchvision on PyPI is built for CUDA; beside a CPU torch its compiled operators are
not loaded, and its import fails at the schemas of two that no classifier uses. The product must
not carry this, so it lives with the tests: `python -m tests.with_torchvision studies.search_speed`.
"""

import runpy
import sys

import torch


def define_missing_schemas() -> object:
    """Define the schemas if they are missing; what is returned keeps them alive."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    try:
        import torchvision  # noqa: F401, PLC0415  may fail
    except RuntimeError:
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


if __name__ == "__main__":
    kept = define_missing_schemas()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
