"""Batch-norm statistics of a compressed network, re-estimated on unlabelled data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
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
    """Replace the running statistics of batch norm by their mean over images, in place.

    Compression shifts what every layer puts out; this costs a few forward passes, no labels and
    no gradients, and often recovers most of the loss. Train flags and momenta are restored.

    Args:
        model: Its batch-norm buffers are changed, nothing else, and those of a batch norm that does
            not run in evaluation stay. One without batch norm is left alone, with a warning.
        batches: Inputs of the network: tensors, mappings of keyword arguments, or tuples of inputs
            and then labels, which are left out (`sekron.forward.batches.arguments_of`). Each should
            hold images of all kinds, as from a loader that shuffles: meanwhile batch norm
            normalises every batch by itself, so that what sets batches apart is not seen.

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
    if not torch.is_inference_mode_enabled() and any(
        buffer.is_inference() for norm in norms for buffer in norm.buffers()
    ):
        raise ValueError(
            "batch norm must be open to changes, but the network was made within "
            "`torch.inference_mode()`; make or load it outside of it."
        )
    backup = [(norm.momentum, {k: v.clone() for k, v in norm.named_buffers()}) for norm in norms]
    n_seen = dict.fromkeys(norms, 0)
    handles, finished = [], False
    try:
        # A network that was compiled would be compiled again for every momentum.
        with uncompiled(), buffers_kept(model, but=norms), evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.training = True
                handles.append(norm.register_forward_pre_hook(_weigher(n_seen), with_kwargs=True))
            for batch in without_singles(inputs_of(batches, model, "`batches`")):
                output_of(model, batch, "the batches")
        if not all(torch.isfinite(b).all() for norm in norms for b in norm.buffers()):
            raise ValueError("the network's activations must be finite on `batches`, but are not.")
        finished = True
    finally:
        for handle in handles:
            handle.remove()
        for norm, (momentum, buffers) in zip(norms, backup, strict=True):
            norm.momentum = momentum
            if not finished or not n_seen[norm]:  # one that saw nothing knows nothing
                for name, buffer in buffers.items():
                    getattr(norm, name).copy_(buffer)


def _weigher(n_seen: dict[_BatchNorm, int]) -> Callable[..., None]:
    """Return a hook with which what a norm sees counts by how much it is.

    Args:
        n_seen: Norm -> how much it has seen, which the hook adds to.
    """

    def weigh(norm: _BatchNorm, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = next(iter((*inputs, *named.values())))
        n_new = x.numel() // max(x.shape[1], 1)
        n_seen[norm] += n_new
        norm.momentum = n_new / max(n_seen[norm], 1)  # none, where a network selects none

    return weigh


def norms_with_statistics(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms whose running statistics `recalibrate` replaces."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
