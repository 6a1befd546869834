"""What a compressed network's output should learn from the dense one's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def divergence(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Return how far an output is from another.

    Args:
        output: Logits of shape `(N, classes)`, or any output.
        wanted: The dense network's, of the same shape.
        temperature: At which class probabilities are compared; the gradient's size does not
            depend on it.

    Returns:
        The Kullback-Leibler divergence of logits, mean over the images; the relative squared
        error of anything else.

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
    if output.dim() == 2 and output.shape[1] > 1:
        own, theirs = ((t / temperature).log_softmax(dim=1) for t in (output, wanted))
        return temperature**2 * F.kl_div(own, theirs, log_target=True, reduction="batchmean")
    return (output - wanted).square().sum() / wanted.square().sum().clamp_min(1e-12)
