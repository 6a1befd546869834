"""Gradients through recurrent layers in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

SAME_IN_TRAINING = {kind.forward for kind in (nn.RNN, nn.LSTM, nn.GRU)}
"""Forward passes that, but for dropout, do in training what they do in evaluation."""


@contextmanager
def recurrent_differentiable(network: nn.Module) -> Iterator[None]:
    """Let gradients through torch's recurrent layers that are in evaluation, within the block.

    cuDNN refuses them there. The layers are put into training instead, without dropout, which puts
    out the same. One with a forward of its own may do more in training, and is left as it is.
    """
    layers = [
        (module, module.dropout)
        for module in network.modules()
        if isinstance(module, nn.RNNBase) and type(module).forward in SAME_IN_TRAINING
        if not module.training
    ]
    try:
        for layer, _ in layers:
            layer.training, layer.dropout = True, 0.0
        yield
    finally:
        for layer, dropout in layers:
            layer.training, layer.dropout = False, dropout
