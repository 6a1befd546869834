"""All that can be done for a compressed network without labels, in the right order."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from torch import nn

from sekron.calibration.divergence import reference_of
from sekron.calibration.output_kind import Output
from sekron.forward.batches import Batches
from sekron.forward.evaluation import must_allow_gradients
from sekron.network.copying import copy_of
from sekron.network.counterparts import in_running_order
from sekron.network.opening import open_modules
from sekron.network.precision import in_single_precision
from sekron.network.surgery import structures_of
from sekron.training.at_best import at_best
from sekron.training.batch_norm import norms_with_statistics, recalibrate
from sekron.training.channels_last import channels_last
from sekron.training.gain_and_offset import rescale
from sekron.training.refit import fit_layers, layers_to_fit
from sekron.training.unlabelled import unlabelled


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair has come to.

    Attributes:
        before: Divergence of the network's output from the dense one's, as the network came, on
            the batches that it was repaired with.
        after: The same of the repaired network; at most that before.
        output: What the outputs were taken for: `logits`, `values` or `given`.
    """

    before: float
    after: float
    output: str

    def __str__(self) -> str:
        return (
            f"divergence from the dense network, outputs as {self.output}: "
            f"{self.before:.4g} before, {self.after:.4g} after"
        )


@in_single_precision
def repair(
    model: nn.Module,
    dense: nn.Module,
    batches: Batches,
    *,
    output: Output | None = None,
    progress: bool = True,
) -> Repair:
    """Repair a compressed network, in place, with unlabelled batches and no training.

    Batch norm is re-estimated; where there is none, each channel of the replaced layers gets a gain
    and an offset. Then the layers are refitted, and batch norm is re-estimated again. On these
    batches the network never ends with a larger divergence than it had.

    Args:
        model: From `Plan.apply` on `dense`; its factors, the biases of its factorized layers and
            its batch-norm buffers are changed, frozen ones too.
        dense: Not modified.
        batches: Unlabelled inputs, as `recalibrate` takes them; some hundred images, and more are
            better. Fewer than 16 are warned of: on others the network may end worse.
        output: What the networks put out: `logits`, `values`, or a divergence of two outputs;
            default by what the outputs look like.
        progress: Whether to show a progress bar and the outcome on stderr.

    Returns:
        The divergence of the network's output before and after: of logits the Kullback-Leibler
        divergence, mean over the images, of values the relative squared error.

    Raises:
        ValueError: As `refit` does; the network is then as it was.
    """
    dense = open_modules(copy_of(dense), structures_of(model))  # forward may change it
    layers = layers_to_fit(model, dense)
    must_allow_gradients(model)
    inputs = unlabelled(batches, dense)
    with channels_last((model, dense), inputs[0]):
        reference = reference_of(dense, inputs, output)
        with at_best(model, reference) as best:
            if norms_with_statistics(model):
                recalibrate(model, inputs)
            else:
                best.must_be_finite()
                rescale(model, dense, in_running_order(layers, dense, inputs[0]), inputs)
            best.look()
            best.must_be_finite()
            fit_layers(model, dense, layers, reference, progress=progress)
            best.look()
    outcome = Repair(best.first, best.least, reference.kind.name)
    if progress:
        sys.stderr.write(f"{outcome}\n")
    return outcome
