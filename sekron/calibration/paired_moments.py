"""What a layer gets in the compressed network, beside what it got in the dense one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sekron.calibration.moments import CHUNK, Convolution, _patches, _rows
from sekron.forward import output_of


@dataclass(frozen=True, eq=False, slots=True)
class PairedMoments:
    """Moments of the input x of a layer in the dense network and x′ in the compressed one.

    Over all images, calls and positions, centred; of a grouped convolution there is a leading
    axis, one matrix per group.

    Attributes:
        cross: `E[(x − μ)(x′ − μ′)ᵀ]`, `(n, n)`, fp64: of whole patches, `n = in · kernel`, or of
            channels, `n = in`.
        compressed: `E[(x′ − μ′)(x′ − μ′)ᵀ]`, of the same shape.
        dense_mean: μ, `(n,)`.
        compressed_mean: μ′, `(n,)`.
    """

    cross: Tensor
    compressed: Tensor
    dense_mean: Tensor
    compressed_mean: Tensor


def paired_moments(
    name: str,
    dense: nn.Module,
    compressed: nn.Module,
    batches: Sequence[Tensor],
    largest_patch: int,
) -> PairedMoments | None:
    """Pass batches through both networks up to a layer, and collect the moments of its input.

    Args:
        name: Of the layer.
        dense: As it shall run.
        compressed: As it shall run.
        batches: Unlabelled inputs.
        largest_patch: Of a layer whose kernel takes at most that many numbers in, whole patches
            are collected instead of channels.

    Returns:
        The moments, None where the layer did not run.
    """
    module = dense.get_submodule(name)
    cross: Tensor | float = 0.0
    square: Tensor | float = 0.0
    mean: Tensor | float = 0.0
    other_mean: Tensor | float = 0.0
    n_rows = 0
    for batch in batches:
        pairs = zip(
            _inputs(name, dense, batch), _inputs(name, compressed, batch), strict=True
        )
        for x, y in pairs:
            for a, b in zip(_parts(module, x, largest_patch), _parts(module, y, largest_patch), strict=True):
                cross = cross + (a.mT @ b).double()
                square = square + (b.mT @ b).double()
                mean, other_mean = mean + a.double().sum(-2), other_mean + b.double().sum(-2)
                n_rows += a.shape[-2]
    if not isinstance(cross, Tensor) or not isinstance(square, Tensor):
        return None
    mean, other_mean = mean / n_rows, other_mean / n_rows
    assert isinstance(mean, Tensor) and isinstance(other_mean, Tensor)
    return PairedMoments(
        cross / n_rows - mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        square / n_rows - other_mean.unsqueeze(-1) * other_mean.unsqueeze(-2),
        mean,
        other_mean,
    )


class _Reached(Exception):
    """The layer has got all its inputs; nothing behind it needs to run."""


def _inputs(name: str, network: nn.Module, batch: Tensor) -> list[Tensor]:
    """Return the input of every call of a layer; the network runs no further than its last one."""
    inputs: list[Tensor] = []

    def hook(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        inputs.append((given[0] if given else named["input"]).detach())

    handle = network.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
    try:
        output_of(network, batch, "the batches")
    finally:
        handle.remove()
    return inputs


def _parts(module: nn.Module, x: Tensor, largest_patch: int) -> Iterator[Tensor]:
    """Yield rows of what the layer takes in: patches or channels."""
    if isinstance(module, Convolution) and module.weight[0].numel() <= largest_patch:
        for some in torch.split(x, CHUNK):
            yield _rows(module, _patches(module, some))
    else:
        yield _rows(module, x)
