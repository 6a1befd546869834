"""How far a compressed network's outputs are from those of the dense one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sekron.calibration.output_kind import Output, OutputKind, kind_of
from sekron.forward.evaluation import evaluating, output_of
from sekron.forward.inputs import Arguments


@dataclass(frozen=True, eq=False, slots=True)
class Reference:
    """What a compressed network is held against: the dense one's outputs for some batches.

    Attributes:
        batches: Unlabelled inputs.
        outputs: What the dense network puts out for them.
        kind: Of the outputs.
    """

    batches: Sequence[Arguments]
    outputs: Sequence[object]
    kind: OutputKind

    def divergence(self, network: nn.Module) -> float:
        """Return how far a network's outputs are from the dense one's, mean over the images.

        Args:
            network: In the mode in which it shall run.

        Returns:
            The divergence, at least 0, infinite where an output is not finite.

        Raises:
            ValueError: If the outputs differ in shape.
        """
        total = 0.0
        with torch.no_grad():
            for batch, wanted in zip(self.batches, self.outputs, strict=True):
                output = output_of(network, batch, "the batches")
                total += len(batch) * float(self.kind.divergence(output, wanted, 1.0))
        mean = total / sum(map(len, self.batches))
        # Below zero it is rounding.
        return max(mean, 0.0) if math.isfinite(mean) else math.inf

    def sample(self, n_images: int) -> Reference:
        """Return the same of about so many images, in batches from all places of the sequence."""
        mean = sum(map(len, self.batches)) / len(self.batches)
        count = min(math.ceil(n_images / mean), len(self.batches))
        places = [i * len(self.batches) // count for i in range(count)]
        batches, outputs = [self.batches[i] for i in places], [self.outputs[i] for i in places]
        return Reference(batches, outputs, self.kind)


def reference_of(
    dense: nn.Module, batches: Iterable[Arguments], output: Output | None = None
) -> Reference:
    """Run the dense network on batches.

    Args:
        dense: Runs in evaluation mode.
        batches: Unlabelled inputs, at least one.
        output: What the network puts out; None to guess.

    Raises:
        ValueError: If the network does not run, or `output` is no kind.
    """
    inputs = list(batches)
    with evaluating(dense):
        outputs = [output_of(dense, batch, "the batches") for batch in inputs]
    return Reference(inputs, outputs, kind_of(output, outputs[0]))
