"""Fit layer after layer to what it should have been for the input that it now gets."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sekron.calibration.divergence import Reference
from sekron.calibration.layer_inputs import InputsAhead
from sekron.calibration.moments import WIDEST, Moments
from sekron.calibration.paired_moments import PairedMoments, paired_moments
from sekron.decomposition.systems import solve_each
from sekron.forward.evaluation import evaluating
from sekron.layers.factorized import Factorized
from sekron.network.eligibility import TRANSPOSED
from sekron.training.factor_fit import fit_factors, metric_of_fit

LARGEST_PATCH = 2304
"""Most numbers that a kernel may take in for its input to be known by patches, not by channels.

Their second moments are a matrix of that size; the root of one twice as large takes a minute."""

N_JUDGED = 256
"""Images, about, by whose outputs a fit is judged."""

DAMPING = 0.05
"""What is added to both moments of the target, relative to the mean variance of the input."""


def fit_in_sequence(
    model: nn.Module,
    dense: nn.Module,
    layers: Mapping[str, Factorized],
    gradients: Mapping[str, Tensor],
    reference: Reference,
    steps: int,
    on_layer: Callable[[], object],
) -> None:
    """Go through the layers in order; keep of every fit what lowers the output's divergence.

    With x what a layer takes in in the dense network and x′ in the network compressed so far, the
    target is `W* = W (B + λI)(D + λI)⁻¹`, `B = E[x x′ᵀ]`, `D = E[x′ x′ᵀ]`, both centred: the least
    squares solution for the layer's own output. The factors are fitted to it in the metric of D
    and of the gradient's moments. A bias, where there is one, takes up the difference of the means.
    A layer of more than `WIDEST` input channels is left as it is, and so is one that gets
    another number of images, or of parts of them, than in the dense network.

    Args:
        model: The compressed network, modified in place.
        dense: The network that it comes from.
        layers: Layer name -> factorized layer of the model, in the order in which they run.
        gradients: Layer name -> moments of the gradient at its output, `(out, out)`.
        reference: By whose batches is fitted and judged.
        steps: Of L-BFGS, at most, for each layer.
        on_layer: Called after every layer.

    Reference:
        Zhang et al., Accelerating very deep convolutional networks, arXiv 1505.06798, section
        3.3, for the asymmetric target.
    """
    batches, judging = reference.batches, reference.sample(N_JUDGED)
    with evaluating(model), evaluating(dense), batch_statistics(model):
        least = judging.divergence(model)
        inputs = InputsAhead(dense, list(layers), batches)
        for name, layer in layers.items():
            paired = None
            if _n_channels(dense.get_submodule(name)) <= WIDEST:
                paired = paired_moments(name, inputs, model, LARGEST_PATCH)
            if paired is None:
                on_layer()
                continue
            before = [factor.clone() for factor in layer.factors()]
            bias = None if layer.bias is None else layer.bias.detach().clone()
            _fit(layer, dense.get_submodule(name), paired, gradients[name], steps)
            now = judging.divergence(model)
            if now < least:
                least = now
            else:
                layer.set_factors(before)
                if layer.bias is not None and bias is not None:
                    layer.bias.data.copy_(bias)
            on_layer()


def _n_channels(module: nn.Module) -> int:
    """Return the channels that one group of a layer takes in."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    groups = int(getattr(module, "groups", 1))
    return weight.shape[0] // groups if isinstance(module, TRANSPOSED) else weight.shape[1]


def target_of(weight: Tensor, paired: PairedMoments, damping: float = DAMPING) -> Tensor:
    """Return `W (B + λI)(D + λI)⁻¹`, λ the damping times the mean of D's diagonal.

    Args:
        weight: Shape `(out, in, kernel…)`; of a grouped convolution all groups' outputs.
        paired: Its matrices are of the patches or of the channels that the weight takes in.
        damping: At least 0.
    """
    square = paired.compressed
    n = square.shape[-1]
    scale = damping * square.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    ridge = scale.clamp_min(torch.finfo(square.dtype).tiny)[..., None, None] * torch.eye(
        n, dtype=square.dtype, device=square.device
    )
    blocks = weight.detach().double().reshape(*square.shape[:-2], -1, n, _n_places(weight, square))
    rows = blocks.movedim(-1, -3)  # ((groups), places, out, n)
    product = (rows @ (paired.cross + ridge).unsqueeze(-3)).flatten(-3, -2)
    solved = solve_each((square + ridge).mT, product.mT).mT.reshape(rows.shape)
    return solved.movedim(-3, -1).reshape(weight.shape).to(weight.dtype)


def _fit(
    layer: Factorized, module: nn.Module, paired: PairedMoments, gradients: Tensor, steps: int
) -> None:
    """Fit one layer; a transposed convolution keeps its inputs along the first mode."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    if isinstance(module, TRANSPOSED):
        turned = _turned(weight, module)
        target = _turned(target_of(turned, paired), module)
        moments = Moments(paired.compressed, gradients, 1.0)
    else:
        target, moments = target_of(weight, paired), Moments(gradients, paired.compressed, 1.0)
    fit_factors(layer, target, metric_of_fit(moments), steps)
    if layer.bias is not None:
        fitted = layer.dense_weight().detach()
        pair, spread = (weight, fitted), 1
        if isinstance(module, TRANSPOSED):
            pair = (_turned(weight, module), _turned(fitted, module))
            spread = math.prod(module.stride)  # one position gets one of so many places
        means = (paired.dense_mean, paired.compressed_mean)
        put_out = [_mean_output(w, mean) / spread for w, mean in zip(pair, means, strict=True)]
        bias = module.bias
        assert isinstance(bias, Tensor)
        layer.bias.data.copy_(bias + (put_out[0] - put_out[1]).to(bias))


def _mean_output(weight: Tensor, mean: Tensor) -> Tensor:
    """Return what all places of a kernel together make of the mean of the input, per output."""
    n = mean.shape[-1]
    blocks = weight.detach().double().reshape(*mean.shape[:-1], -1, n, _n_places(weight, mean))
    return (blocks.sum(dim=-1) @ mean.unsqueeze(-1)).flatten()


def _n_places(weight: Tensor, matrix: Tensor) -> int:
    """Return for how many places of the kernel one matrix of channels stands; 1 for patches."""
    return weight[0].numel() // matrix.shape[-1]


def _turned(weight: Tensor, module: nn.Module) -> Tensor:
    """Exchange the channel modes of a transposed convolution's weight, group by group."""
    groups = int(getattr(module, "groups", 1))
    parts = [part.transpose(0, 1) for part in weight.chunk(groups)]
    return torch.cat(parts)


@contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Let batch norm use the statistics of the batch, and leave its buffers as they are."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    states = [(norm.training, [buffer.clone() for buffer in norm.buffers()]) for norm in norms]
    try:
        for norm in norms:
            norm.training = True
        yield
    finally:
        for norm, (training, buffers) in zip(norms, states, strict=True):
            norm.training = training
            for buffer, value in zip(norm.buffers(), buffers, strict=True):
                buffer.copy_(value)
