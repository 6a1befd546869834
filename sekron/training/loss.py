"""The loss of a training on one batch: by labels, by the dense network's outputs, or by both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from sekron.calibration.output_kind import Output, kind_of
from sekron.forward import evaluating, output_of
from sekron.training.recipe import Recipe


class Loss:
    """`(1 − distillation) · cross-entropy + distillation · divergence`, on one batch.

    Args:
        teacher: The dense network, or None; without it `distillation` counts as 0.
        recipe: The recipe, which holds `distillation` and the temperature of the divergence.
        output: What the networks put out; None to guess by the first batch.
    """

    def __init__(
        self, teacher: nn.Module | None, recipe: Recipe, output: Output | None = None
    ) -> None:
        self._teacher, self._output = teacher, output
        self._share = 0.0 if teacher is None else recipe.distillation
        self._temperature = recipe.temperature

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss.

        Args:
            network: The network, in training mode.
            batch: `(images, labels)`, or images alone.

        Raises:
            ValueError: If the batch is none, does not fit a network, or there is nothing to learn
                from.
        """
        images, *labels = batch if isinstance(batch, Sequence) and len(batch) else (batch,)
        if not isinstance(images, Tensor):
            raise ValueError(
                "`loader` must hold tensors, or tuples (images, labels), got "
                f"{type(batch).__name__}."
            )
        output = _outputs(network, images)
        loss: Tensor = output.new_zeros(())
        if self._share < 1.0:
            if not labels:
                raise ValueError(
                    "the batches must hold labels beside the images, or a dense network must teach "
                    "with `distillation=1`; got images alone."
                )
            classes = _classes(labels[0], output)
            loss = loss + (1.0 - self._share) * F.cross_entropy(output, classes)
        if self._teacher is not None and self._share > 0.0:
            with evaluating(self._teacher):
                target = _outputs(self._teacher, images)
            kind = self._output = kind_of(self._output, target)
            loss = loss + self._share * kind.divergence(output, target, self._temperature)
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
