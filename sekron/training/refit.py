"""Fit the factors of a compressed network to the dense one's weights, by what its inputs tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from sekron.calibration.divergence import Reference, reference_of
from sekron.calibration.moments import Moments, moments
from sekron.calibration.output_kind import Output
from sekron.forward.batches import Batches
from sekron.forward.evaluation import evaluating, must_allow_gradients
from sekron.layers.factorized import Factorized
from sekron.network.copying import copy_of
from sekron.network.counterparts import in_running_order, paired
from sekron.network.eligibility import TRANSPOSED
from sekron.network.opening import open_modules
from sekron.network.precision import in_single_precision
from sekron.network.surgery import structures_of, weight_of
from sekron.progress import bar
from sekron.scalars import whole
from sekron.training.at_best import at_best
from sekron.training.batch_norm import norms_with_statistics, recalibrate
from sekron.training.channels_last import channels_last
from sekron.training.factor_fit import fit_factors, metric_of_fit
from sekron.training.sequential_fit import (
    LARGEST_PATCH,
    N_JUDGED,
    batch_statistics,
    fit_in_sequence,
)
from sekron.training.unlabelled import unlabelled

STEPS = 300
"""Of L-BFGS, at most, for the fit of a layer in sequence."""

START = 3
"""The fit of a layer alone, where the one in sequence starts, has so many times fewer steps."""


@in_single_precision
def refit(
    model: nn.Module,
    dense: nn.Module,
    batches: Batches,
    *,
    steps: int = STEPS,
    output: Output | None = None,
    progress: bool = True,
) -> float:
    """Fit the factors of a compressed network, in place, first layer by layer, then in sequence.

    First each layer is fitted to its own dense weight, in the metric of all that its kernel sees
    at a position in the dense network. Then the layers are gone through in the order in which they
    run, and each is fitted to what it should have been for the input that it now gets from the
    compressed layers before it. What lowers the divergence of the network's output is kept. Batch
    norm is re-estimated at the end. On these batches the network never ends with a larger
    divergence than it had.

    Args:
        model: From `Plan.apply` on `dense`; its factors, the biases of its factorized layers and
            its batch-norm buffers are changed, frozen ones too.
        dense: Not modified; a layer that is factorized in it too stays as it is.
        batches: Unlabelled inputs, as `repair` takes them; they are gone through a few times for
            every layer.
        steps: Most steps of L-BFGS for the fit of a layer in sequence; alone, a third of them.
        output: What the networks put out: `logits`, `values`, or a divergence of two outputs;
            default by what the outputs look like.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The divergence of the network's output from the dense one's on the batches afterwards,
        over the one before: at most 1.

    Raises:
        ValueError: If nothing is factorized, there are no batches, `steps` is below 1, or the
            networks do not fit together or put out what is not finite; the network is then as it
            was.

    Reference:
        Martens, Grosse, arXiv 1503.05671, for the metric; Zhang et al., Accelerating very deep
        convolutional networks, arXiv 1505.06798, section 3.3, for the asymmetric target.
    """
    dense = open_modules(copy_of(dense), structures_of(model))  # forward may change it
    layers = layers_to_fit(model, dense)
    steps = whole("steps", steps)
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    must_allow_gradients(model)
    inputs = unlabelled(batches, dense)
    with channels_last((model, dense), inputs[0]):
        reference = reference_of(dense, inputs, output)
        with at_best(model, reference) as best:
            if not norms_with_statistics(model):  # else they may become finite
                best.must_be_finite()
            fit_layers(model, dense, layers, reference, steps=steps, progress=progress)
            best.look()
            best.must_be_finite()
    return best.ratio


def layers_to_fit(model: nn.Module, dense: nn.Module) -> dict[str, Factorized]:
    """Return layer name -> factorized layer whose counterpart in the dense network is dense.

    Raises:
        ValueError: If there is none, or the networks do not fit together.
    """
    layers = {
        name: layer
        for name, layer in paired(model, dense).items()
        if not isinstance(dense.get_submodule(name), Factorized)
    }
    if not layers:
        raise ValueError("the network must have factorized layers to refit, but has none.")
    return layers


def fit_layers(
    model: nn.Module,
    dense: nn.Module,
    layers: Mapping[str, Factorized],
    reference: Reference,
    *,
    steps: int = STEPS,
    progress: bool,
) -> None:
    """Fit each layer alone, then all in sequence, and re-estimate batch norm.

    Args:
        model: As in `refit`.
        dense: As in `refit`.
        layers: What `layers_to_fit` returns.
        reference: By whose batches is fitted and judged.
        steps: As in `refit`.
        progress: As in `refit`.
    """
    inputs, kind = reference.batches, reference.kind
    layers = in_running_order(layers, dense, inputs[0])
    collected = moments(
        dense,
        list(layers),
        inputs,
        largest_patch=LARGEST_PATCH,
        draws_rows=True,
        output=kind,
    )
    with bar(progress) as shown:
        task = shown.add_task(f"refit, outputs as {kind.name}", total=2 * len(layers))

        def advance() -> None:
            shown.advance(task)

        _fit_each(model, dense, layers, collected, reference, -(-steps // START), advance)
        gradients = {name: _gradients(dense, name, own) for name, own in collected.items()}
        del collected  # the moments of patches are large
        fit_in_sequence(model, dense, layers, gradients, reference, steps, advance)
    if norms_with_statistics(model):
        recalibrate(model, inputs)


def _fit_each(
    model: nn.Module,
    dense: nn.Module,
    layers: Mapping[str, Factorized],
    collected: Mapping[str, Moments],
    reference: Reference,
    steps: int,
    on_layer: Callable[[], None],
) -> None:
    """Fit every layer to its own weight; take all of it back where the output says so."""
    backup = {
        name: [factor.clone() for factor in layer.factors()] for name, layer in layers.items()
    }
    judging = reference.sample(N_JUDGED)
    with evaluating(model), batch_statistics(model):
        before = judging.divergence(model)
        for name, layer in layers.items():
            fit_factors(layer, weight_of(dense, name), metric_of_fit(collected[name]), steps)
            on_layer()
        if not judging.divergence(model) < before:
            for name, layer in layers.items():
                layer.set_factors(backup[name])


def _gradients(dense: nn.Module, name: str, own: Moments) -> Tensor:
    """Return the gradient's moments; a transposed convolution's stand in the inputs' place."""
    is_transposed = isinstance(dense.get_submodule(name), TRANSPOSED)
    return own.inputs if is_transposed else own.gradients
