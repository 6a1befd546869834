"""Batch-norm statistics of a compressed network, re-estimated on unlabelled data."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sekron.forward.batches import Batches
from sekron.forward.evaluation import (
    buffers_kept,
    evaluating,
    inputs_of,
    output_of,
    uncompiled,
    without_singles,
)
from sekron.network.precision import in_single_precision


@in_single_precision
def recalibrate(model: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of batch norm by those of all images together, in place.

    Compression shifts what every layer puts out; this costs a few forward passes, no labels and
    no gradients, and often recovers most of the loss. Train flags and momenta are restored. What
    batch norm puts out meanwhile is normalised batch by batch, and so are the images to be mixed.

    Args:
        model: Its batch-norm buffers are changed, nothing else, and those of a batch norm that does
            not run in evaluation stay. One without batch norm is left alone, with a warning.
        batches: Inputs of the network: tensors, mappings of keyword arguments, or tuples of inputs
            and then labels, which are left out (`sekron.forward.batches.arguments_of`).

    Raises:
        ValueError: If there are no batches, one is not finite, the network does not run on one or
            was made in inference mode, or the statistics would not be finite; they stay as they
            were.
    """
    norms = norms_with_statistics(model)
    if not norms:
        warnings.warn(
            "recalibrate: the network has no batch norm with statistics; nothing was changed.",
            stacklevel=3,
        )
        return
    _must_be_open(norms)
    backup = [(norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    seen = {norm: _Moments() for norm in norms}
    handles, finished = [], False
    try:
        # A network that was compiled does not call the hooks.
        with uncompiled(), buffers_kept(model, but=norms), evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.training = True
                norm.momentum = 1.0  # so that they are those of the last batch alone
                handles.append(norm.register_forward_hook(seen[norm].add, with_kwargs=True))
            for batch in without_singles(inputs_of(batches, model, "`batches`")):
                output_of(model, batch, "the batches")
            for norm, moments in seen.items():
                moments.write(norm)
        if not all(torch.isfinite(b).all() for norm in norms for b in norm.buffers()):
            raise ValueError("the network's activations must be finite on `batches`, but are not.")
        finished = True
    finally:
        for handle in handles:
            handle.remove()
        for norm, (momentum, buffers) in zip(norms, backup, strict=True):
            norm.momentum = momentum
            if not finished or not seen[norm].number:  # one that saw nothing knows nothing
                for name, buffer in buffers.items():
                    getattr(norm, name).copy_(buffer)


def _must_be_open(norms: list[_BatchNorm]) -> None:
    """Refuse batch norms whose buffers torch lets nobody change."""
    if not torch.is_inference_mode_enabled() and any(
        buffer.is_inference() for norm in norms for buffer in norm.buffers()
    ):
        raise ValueError(
            "batch norm must be open to changes, but the network was made within "
            "`torch.inference_mode()`; make or load it outside of it."
        )


class _Moments:
    """Mean and variance of all that a batch norm has seen, from those of each batch.

    Attributes:
        number: How many values of a channel it has seen.

    Reference:
        Chan, Golub, LeVeque, Algorithms for computing the sample variance, 1983.
    """

    def __init__(self) -> None:
        self.number = 0
        self._mean, self._squares = torch.zeros(()), torch.zeros(())  # of deviations from the mean

    def add(
        self, norm: _BatchNorm, inputs: tuple[Any, ...], named: dict[str, Any], _: object
    ) -> None:
        """Add the batch whose statistics a norm has; a hook after its forward."""
        x = next(iter((*inputs, *named.values())))
        number = x.numel() // max(x.shape[1], 1)
        if not number:  # a network may select none
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        total = self.number + number
        apart = norm.running_mean - self._mean.to(norm.running_mean.device)
        squares = (number - 1) * norm.running_var + self.number * number / total * apart.square()
        self._mean = self._mean.to(apart.device) + number / total * apart
        self._squares = self._squares.to(apart.device) + squares
        self.number = total

    def write(self, norm: _BatchNorm) -> None:
        """Give a norm the statistics of all batches, if there were any."""
        if self.number:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(self._mean)
            norm.running_var.copy_(self._squares / (self.number - 1))


def norms_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms whose running statistics `recalibrate` replaces."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
