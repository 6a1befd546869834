"""The loss of a training on one batch: by labels, by the dense network's outputs, or by both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sekron.calibration.output_kind import Output, kind_of
from sekron.forward.batches import arguments_and_labels, arguments_of
from sekron.forward.evaluation import evaluating, must_have_gradient, output_of
from sekron.forward.tensors import scalar
from sekron.training.recipe import Recipe

TaskLoss = Callable[[Any, Any], Tensor]
"""A user's loss: a function of what the network puts out and the batch as the loader yields it,
which returns a scalar tensor."""

WHAT = "the batches of `loader`"


class Loss:
    """`(1 − distillation) · task + distillation · divergence`, on one batch.

    The task is the cross-entropy of the labels, unless the user gives another loss.

    Args:
        teacher: The dense network, or None; without it `distillation` counts as 0.
        recipe: The recipe, which holds `distillation` and the temperature of the divergence.
        output: What the networks put out; None to guess by the first batch.
        task: The user's loss, or None.

    Raises:
        ValueError: If the loss is no function.
    """

    def __init__(
        self,
        teacher: nn.Module | None,
        recipe: Recipe,
        output: Output | None = None,
        task: TaskLoss | None = None,
    ) -> None:
        if task is not None and not callable(task):
            raise ValueError(f"`loss` must be a function of output and batch, got {task!r}.")
        self._teacher, self._output, self._task = teacher, output, task
        self._share = 0.0 if teacher is None else recipe.distillation
        self._temperature = recipe.temperature

    def __call__(self, network: nn.Module, batch: Any) -> Tensor:
        """Return the loss.

        Args:
            network: The network, in training mode.
            batch: `(images, labels)`, or images alone; `arguments_of` tells what images may be.

        Raises:
            ValueError: If the batch is none, does not fit a network, there is nothing to learn
                from, or no gradient.
        """
        if self._share < 1.0:
            arguments, labels = arguments_and_labels(batch, network, WHAT)
        else:
            arguments, labels = arguments_of(batch, network, WHAT), ()
        output = output_of(network, arguments, WHAT)
        terms = []
        if self._share < 1.0:
            terms.append((1.0 - self._share) * self._of_task(output, batch, labels))
        if self._teacher is not None and self._share > 0.0:
            with evaluating(self._teacher):
                target = output_of(self._teacher, arguments, WHAT)
            kind = self._output = kind_of(self._output, target)
            terms.append(self._share * kind.divergence(output, target, self._temperature))
        total = torch.stack(terms).sum()
        must_have_gradient(total)
        return total

    def _of_task(self, output: object, batch: Any, labels: tuple[Any, ...]) -> Tensor:
        if self._task is not None:
            return scalar("loss", self._task(output, batch))
        if not isinstance(output, Tensor):
            raise ValueError(
                "the network must put out one tensor to be trained on labels, or `loss` must be "
                f"given; got {type(output).__name__}."
            )
        if not labels:
            raise ValueError(
                "the batches must hold labels beside the images, or a dense network must teach "
                "with `distillation=1`, or `loss` must be given; got images alone."
            )
        return F.cross_entropy(output, _classes(labels[0], output))


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
