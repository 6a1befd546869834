"""Second moments of the inputs of every layer, and of the gradients at its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from sekron.calibration.output_kind import Output, kind_of, real_tensors
from sekron.calibration.patches import Drawn, batched, channels_of
from sekron.decomposition.own_precision import in_own_precision
from sekron.forward.batches import Batches
from sekron.forward.evaluation import inputs_of, must_allow_gradients, output_of, uncompiled
from sekron.forward.inputs import Arguments
from sekron.forward.recurrent import recurrent_differentiable
from sekron.network.copying import copy_of
from sekron.network.eligibility import TRANSPOSED
from sekron.network.precision import in_single_precision

N_DRAWS = 4
"""Draws of the gradient for each batch."""

AT_ONCE = 32
"""Most images that are passed forwards and back at once: that keeps all their activations."""

NUMBERS = 2**20
"""Most numbers of the inputs that are passed at once; a single image may have more."""

WIDEST = 4096
"""Most channels of which the products of all pairs are collected; of more, only the squares are.

The matrix of the 25,088 channels of a VGG's classifier would take 5 GB, and its root hours."""


@dataclass(frozen=True, eq=False, slots=True)
class Moments:
    """Second moments of one layer, over all images and positions, on the network's device.

    A grouped convolution has one matrix per group, along a leading axis. For more than `WIDEST`
    channels there is only the diagonal, `(out,)` or `(in,)`.

    Attributes:
        gradients: Mean of `g gᵀ` over positions and images, `(out, out)`, fp64.
        inputs: Mean of `x xᵀ` over positions and images, `(in, in)`, fp64; of whole patches where
            these were asked for, `(in · kernel, in · kernel)`. About the mean of x where batch norm
            follows, which takes out what comes of it. For a transposed convolution the two change
            places, as the channels do in its weight.
        n_positions: Output positions per image, over all calls of the layer.
    """

    gradients: Tensor
    inputs: Tensor
    n_positions: float


@in_single_precision
def moments(
    model: nn.Module,
    names: Sequence[str],
    batches: Batches,
    *,
    seed: int = 0,
    largest_patch: int = 0,
    draws_rows: bool = False,
    output: Output | None = None,
    centred: bool = True,
) -> dict[str, Moments]:
    """Pass unlabelled batches through a network, forwards and back, and collect the moments.

    The gradient is that of a random scalar of the output, drawn `N_DRAWS` times for each batch,
    whose own gradient squared is the curvature of the divergence from the network itself.

    Args:
        model: Not modified; a copy of it runs in evaluation mode.
        names: Layers to collect for.
        batches: Inputs of the network, as `recalibrate` takes them.
        seed: Seed of the draws.
        largest_patch: Whole patches are collected instead of channels where a kernel takes in at
            most that many numbers.
        draws_rows: Whether as many positions, drawn at random, suffice as the moments need.
        output: What the network puts out; None to guess.
        centred: Whether moments of inputs are about the mean where batch norm follows.

    Returns:
        Layer name -> moments.

    Raises:
        ValueError: If there are no batches, one is not finite, the network does not run, or one of
            the layers takes no part in its output.
    """
    must_allow_gradients(model)
    network = copy_of(model).eval().requires_grad_(False)
    inputs: Iterable[Arguments] = inputs_of(batches, network, "`calibration`")
    if draws_rows:
        inputs = list(inputs)
    drawn = Drawn(largest_patch, inputs if draws_rows else None, seed)
    sums = {
        name: _Sums(drawn, isinstance(network.get_submodule(name), TRANSPOSED)) for name in names
    }
    handles = [
        network.get_submodule(name).register_forward_hook(layer_sums.hook, with_kwargs=True)
        for name, layer_sums in sums.items()
    ]
    if centred:
        handles += _centring(network, list(sums.values()))
    generator = torch.Generator().manual_seed(seed)
    n_images = 0
    kind = None
    try:
        for batch in chain.from_iterable(b.split(_at_once(b)) for b in inputs):
            n_images += len(batch)
            with uncompiled(), torch.enable_grad(), recurrent_differentiable(network):
                put_out = output_of(network, batch, "the calibration batches")
                _check(put_out)
                kind = kind or kind_of(output, put_out)
                for k in reversed(range(N_DRAWS)):
                    scalar = kind.draw(put_out, generator)
                    torch.autograd.backward(scalar, retain_graph=k > 0)
    finally:
        for handle in handles:
            handle.remove()
    return {name: layer_sums.moments(name, n_images) for name, layer_sums in sums.items()}


def _at_once(batch: Arguments) -> int:
    """Return how many of a batch's images are passed at once."""
    numbers = sum(tensor.numel() for tensor in batch.tensors) / len(batch)
    return int(min(max(NUMBERS / max(numbers, 1), 1), AT_ONCE))


class _Sums:
    """The running sums of one layer."""

    def __init__(self, drawn: Drawn, is_transposed: bool) -> None:
        self._drawn, self._is_transposed = drawn, is_transposed
        self._inputs: Tensor | float = 0.0
        self._input_sum: Tensor | float = 0.0
        self._gradients: Tensor | float = 0.0
        self._n_inputs = 0
        self._n_outputs = 0
        self.last_output: Tensor | None = None
        self.is_centred = False

    def hook(
        self,
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor,
    ) -> Tensor:
        """Add the input, and the gradient at the output once it is known."""
        x = batched(module, (inputs[0] if inputs else kwargs["input"]).detach())
        for rows in self._drawn.rows(module, x):
            self._inputs = self._inputs + _products(rows)
            self._input_sum = self._input_sum + rows.sum(dim=-2).double()
            self._n_inputs += rows.shape[-2]
        if not output.requires_grad:
            output = output.detach().requires_grad_()

        def collect(gradient: Tensor) -> None:
            for g in channels_of(module, batched(module, gradient)).rows():
                self._gradients = self._gradients + _products(g)
                self._n_outputs += g.shape[-2]

        output.register_hook(collect)  # type: ignore[no-untyped-call]  # torch's has no types
        self.last_output = output.clone()  # the next operation may work in place
        return self.last_output

    def moments(self, name: str, n_images: int) -> Moments:
        if not self._n_inputs or not self._n_outputs:
            raise ValueError(
                f"layer {name!r} must run on the batches and reach the output, but does not: leave "
                "it dense, by `exclude` in a search or by a plan without it."
            )
        assert isinstance(self._inputs, Tensor)
        assert isinstance(self._gradients, Tensor)
        if not (torch.isfinite(self._inputs).all() and torch.isfinite(self._gradients).all()):
            raise ValueError(f"the moments must be finite, got NaN or Inf at layer {name!r}.")
        gradients = self._gradients / self._n_outputs
        inputs = self._inputs / self._n_inputs
        if self.is_centred:
            assert isinstance(self._input_sum, Tensor)
            mean = self._input_sum / self._n_inputs
            inputs = inputs - (
                mean.square() if inputs.dim() == 1 else mean.unsqueeze(-1) * mean.unsqueeze(-2)
            )
        if self._is_transposed:
            gradients, inputs = inputs, gradients
        return Moments(gradients, inputs, self._n_outputs / N_DRAWS / n_images)


def _centring(network: nn.Module, layers: Sequence[_Sums]) -> list[RemovableHandle]:
    """Hook batch norm: a layer whose output goes into one is known to be followed by it."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for layer in layers:
            if inputs and inputs[0] is layer.last_output:
                layer.is_centred = True

    norms = (module for module in network.modules() if isinstance(module, _BatchNorm))
    return [norm.register_forward_pre_hook(hook) for norm in norms]


def _check(output: object) -> None:
    tensors = real_tensors(output)
    if not tensors:
        raise ValueError(
            f"the network must put out tensors of real numbers, got {type(output).__name__}; only "
            "within tuples, lists, mappings and data classes are they found."
        )
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    if not leaves:
        raise ValueError(
            "the network's output must depend on the layers that are decomposed, but does not: "
            "forward may run within `torch.no_grad()` or `inference_mode()`, or detach what it "
            "returns."
        )
    if not all(torch.isfinite(leaf).all() for leaf in leaves):
        raise ValueError("the network's output must be finite, got NaN or Inf on a batch.")


def _products(rows: Tensor) -> Tensor:
    """Return `Σ x xᵀ` over the rows `x`, only its diagonal where there are too many channels."""
    if rows.dim() == 2 and rows.shape[1] > WIDEST:
        return rows.double().square().sum(dim=0)
    with in_own_precision(rows):  # in half precision they overflow
        return (rows.mT @ rows).double()
