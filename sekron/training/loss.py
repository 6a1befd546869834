"""The loss of a training on one batch: by labels, by the dense network's outputs, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sekron.calibration.divergence import divergence
from sekron.forward import evaluating, output_of
from sekron.training.recipe import Recipe


def loss_of(network: nn.Module, teacher: nn.Module | None, batch: Any, recipe: Recipe) -> Tensor:
    """Return the loss, `(1 − distillation) · cross-entropy + distillation · divergence`.

    Args:
        network: The network, in training mode.
        teacher: The dense network, or None; without it `distillation` counts as 0.
        batch: `(images, labels)`, or images alone.
        recipe: The recipe, which holds `distillation` and the temperature of the divergence.

    Raises:
        ValueError: If the batch is none, does not fit a network, or there is nothing to learn from.
    """
    images, *labels = batch if isinstance(batch, Sequence) and len(batch) else (batch,)
    if not isinstance(images, Tensor):
        raise ValueError(
            f"`loader` must hold tensors, or tuples (images, labels), got {type(batch).__name__}."
        )
    share = 0.0 if teacher is None else recipe.distillation
    output = _outputs(network, images)
    loss: Tensor = output.new_zeros(())
    if share < 1.0:
        if not labels:
            raise ValueError(
                "the batches must hold labels beside the images, or a dense network must teach "
                "with `distillation=1`; got images alone."
            )
        loss = loss + (1.0 - share) * F.cross_entropy(output, _classes(labels[0], output))
    if teacher is not None and share > 0.0:
        with evaluating(teacher):
            target = _outputs(teacher, images)
        loss = loss + share * divergence(output, target, recipe.temperature)
    return loss


def _outputs(network: nn.Module, images: Tensor) -> Tensor:
    output = output_of(network, images, "the batches of `loader`")
    if not isinstance(output, Tensor):
        raise ValueError(
            f"the network must put out one tensor to be trained, got {type(output).__name__}."
        )
    return output


def _classes(labels: Any, output: Tensor) -> Tensor:
    if output.dim() < 2:
        raise ValueError(
            f"labels need an output (N, classes, …), got one of {tuple(output.shape)}."
        )
    if not isinstance(labels, Tensor) or labels.shape != (len(output), *output.shape[2:]):
        raise ValueError(
            f"the labels must be one class for each of the {len(output)} images, got "
            f"{tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__}."
        )
    n_classes = output.shape[1]
    if labels.is_floating_point() or not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(
            f"the labels must be classes of the network, 0 to {n_classes - 1}, got "
            f"{labels.min().item()} to {labels.max().item()}."
        )
    return labels.long()
