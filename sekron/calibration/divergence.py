"""How far a compressed network's output is from that of the dense one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from sekron.forward import output_of

HALF = (torch.float16, torch.bfloat16)


def divergence(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return how far an output is from another.

    Args:
        output: Output `y` of a network: logits of shape `(N, classes)`, or anything else.
        wanted: Output `t` of the dense network, of the same shape.
        temperature: Temperature `T` of the class probabilities; the size of the gradient does not
            depend on it.

    Returns:
        The Kullback-Leibler divergence of logits, `T² · KL(softmax(t / T) ‖ softmax(y / T))`, mean
        over the images; the relative squared error of anything else, `‖y − t‖² / ‖t‖²`.

    Raises:
        ValueError: If their shapes differ.

    Reference:
        Hinton, Vinyals, Dean, Distilling the knowledge in a neural network, arXiv 1503.02531.
    """
    if output.shape != wanted.shape:
        raise ValueError(
            "the dense network's output must have the shape of the network's, "
            f"{tuple(output.shape)}, got {tuple(wanted.shape)}."
        )
    # Sums over many numbers overflow in half precision, and differences of logarithms vanish.
    output, wanted = (t.float() if t.dtype in HALF else t for t in (output, wanted))
    if output.dim() == 2 and output.shape[1] > 1:
        log_probs, targets = ((t / temperature).log_softmax(dim=1) for t in (output, wanted))
        return temperature**2 * F.kl_div(log_probs, targets, log_target=True, reduction="batchmean")
    return (output - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)


def outputs_of(network: nn.Module, batches: Sequence[Tensor]) -> list[object]:
    """Return what a network puts out for every batch."""
    return [output_of(network, batch, "the batches") for batch in batches]


def output_divergence(
    network: nn.Module, batches: Sequence[Tensor], targets: Sequence[object]
) -> float:
    """Return the divergence of a network's outputs from others, mean over the images.

    Where there are several outputs, their divergences are summed.

    Args:
        network: In the mode in which it shall run.
        batches: Its inputs.
        targets: The outputs of the dense network, as `outputs_of` returns them.

    Returns:
        The divergence, infinite where an output is not finite.
    """
    total = 0.0
    for batch, target in zip(batches, targets, strict=True):
        outputs = output_of(network, batch, "the batches")
        pairs = zip(tree_leaves(outputs), tree_leaves(target), strict=True)
        total += len(batch) * sum(
            # Below zero it is rounding.
            max(float(divergence(a, b, 1.0)), 0.0)
            for a, b in pairs
            if isinstance(a, Tensor)
        )
    mean = total / sum(map(len, batches))
    return mean if math.isfinite(mean) else math.inf
