"""All that can be done for a compressed network without labels, in the right order."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass

from torch import nn

from sekron.calibration.divergence import output_divergence, outputs_of
from sekron.forward import Batches, evaluating, inputs_of, without_singles
from sekron.training.batch_norm import norms_with_statistics, recalibrate
from sekron.training.refit import refit


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair has come to.

    Attributes:
        before: Divergence of the network's output from the dense one's, as the network came.
        after: The same of the repaired network; at most that before.
    """

    before: float
    after: float

    def __str__(self) -> str:
        return (
            f"divergence from the dense network: {self.before:.4g} before, {self.after:.4g} after"
        )


def repair(
    model: nn.Module, dense: nn.Module, batches: Batches, *, progress: bool = True
) -> Repair:
    """Repair a compressed network, in place, with unlabelled batches and no training.

    Batch norm is re-estimated where there is any, the layers are refitted, and batch norm is
    re-estimated again. The network never ends with a larger divergence than it had.

    Args:
        model: From `Plan.apply` on `dense`; its factors, the biases of its factorized layers and
            its batch-norm buffers are changed.
        dense: Not modified.
        batches: Unlabelled inputs, or `(input, …)` tuples whose first entry is taken; some
            hundred images, as many as the network will see anyway being none too many.
        progress: Whether to show a progress bar and the outcome on stderr.

    Returns:
        The divergence of the network's output before and after: of logits the Kullback-Leibler
        divergence, mean over the images, of anything else the relative squared error.

    Raises:
        ValueError: As `refit` does; the network is then as it was.
    """
    inputs = list(without_singles(inputs_of(batches, "`batches`")))
    with evaluating(dense):
        targets = outputs_of(dense, inputs)

    def divergence() -> float:
        with evaluating(model):
            return output_divergence(model, inputs, targets)

    backup = copy.deepcopy(model.state_dict())
    before = divergence()
    try:
        if norms_with_statistics(model):
            recalibrate(model, inputs)
            if not divergence() < before:
                model.load_state_dict(backup)
        refit(model, dense, inputs, progress=progress)
    except BaseException:
        model.load_state_dict(backup)
        raise
    outcome = Repair(before, divergence())
    if progress:
        sys.stderr.write(f"{outcome}\n")
    return outcome
