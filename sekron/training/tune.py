"""Fit a compressed network to what the dense one computes, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sekron.calibration.divergence import reference_of
from sekron.calibration.output_kind import KINDS, Output, OutputKind, real_tensors
from sekron.forward.batches import Batches
from sekron.forward.evaluation import (
    evaluating,
    must_allow_gradients,
    must_have_gradient,
    output_of,
    uncompiled,
)
from sekron.forward.inputs import Arguments
from sekron.forward.recurrent import recurrent_differentiable
from sekron.forward.tensors import map_tensors
from sekron.network.copying import copy_of
from sekron.network.counterparts import paired
from sekron.network.opening import open_modules
from sekron.network.precision import in_single_precision
from sekron.network.surgery import structures_of
from sekron.progress import bar
from sekron.scalars import number, whole
from sekron.training.at_best import at_best
from sekron.training.batch_norm import norms_with_statistics, recalibrate
from sekron.training.channels_last import channels_last
from sekron.training.gradients_aside import gradients_aside
from sekron.training.unlabelled import unlabelled

LEARNING_RATE = 4e-3
"""Largest learning rate of `MANY_STEPS` steps or more; fewer take a smaller one."""

MANY_STEPS = 300

WARM_UP = 0.1
"""Share of the steps in which the learning rate rises."""

CLIP = 1.0
"""Norm to which a gradient is cut."""

TEMPERATURE = 2.0
"""Temperature at which class probabilities are compared."""

TOO_FAR = 1.5
"""A learning rate is too large if at the first look the network diverges so many times as much as
it did, as one without batch norm does that was repaired before."""

CUT, MOST_CUTS = 0.25, 3
"""What a learning rate that is too large is multiplied by, and how often."""

HELD_OUT = 8
"""One in so many images is not fitted to, but judges."""

N_JUDGED, FEWEST_STEPS = 10, 20
"""The network is judged about so many times on its way, after so many steps each at least."""


@in_single_precision
def tune(
    model: nn.Module,
    dense: nn.Module,
    batches: Batches,
    *,
    steps: int = 600,
    learning_rate: float | None = None,
    output: Output | None = None,
    progress: bool = True,
) -> float:
    """Fit a compressed network, in place, to the activations of the dense one.

    Every factorized layer gets its input from the compressed layers before it, and is to put out
    what the dense layer does; so are the modules that hold such layers, blocks say, and the
    network. All parameters that want gradients are fitted.
    Batch norm uses the batch meanwhile, and is re-estimated before and after. One in eight images
    of every batch, or of smaller batches every eighth, is not fitted to: by the divergence of the
    output on these the network is judged on its way, and ends as it was best, or as it came. On a
    CPU images come with their channels last in memory, where the networks put out the same for
    these.

    Args:
        model: From `Plan.apply` on `dense`; its parameters and batch-norm buffers are changed.
        dense: Not modified.
        batches: Unlabelled inputs, as `recalibrate` takes them; they are gone through again and
            again. Where neither has eight, all images judge; fewer than 16 are warned of.
        steps: Steps of the optimizer, one batch each.
        learning_rate: Largest learning rate; it rises to that within the first tenth of the steps
            and falls to zero along a cosine. Default 0.004, less where there are few steps; where
            the network gets much worse by it at first, a quarter of it from the start, and so on.
        output: What the networks put out: `logits`, `values`, or a divergence of two outputs;
            default by what the outputs look like.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The divergence from the dense network afterwards over the one before, on the images that
        judge: at most 1.

    Raises:
        ValueError: If nothing is factorized or wants gradients, there are no batches, the networks
            do not run on one or do not fit together, an argument is out of range, or the loss is
            not finite; the network is then as it was.

    Reference:
        Romero et al., FitNets, arXiv 1412.6550; Hinton et al., Distilling the knowledge in a
        neural network, arXiv 1503.02531, for the output.
    """
    dense = open_modules(copy_of(dense), structures_of(model))  # forward may change it
    names = list(paired(model, dense))
    must_allow_gradients(model)
    inputs = unlabelled(batches, dense)
    steps = whole("steps", steps)
    n_cuts = MOST_CUTS if learning_rate is None else 0
    rate = rate_for(steps) if learning_rate is None else number("learning_rate", learning_rate)
    _check(model, names, steps, rate)
    watched = with_holders(names)
    fitted, judging = _split(inputs)
    has_norms = bool(norms_with_statistics(model))
    with ExitStack() as stack:
        stack.enter_context(channels_last((model, dense), inputs[0]))
        reference = reference_of(dense, judging, output)
        best = stack.enter_context(at_best(model, reference))

        def look() -> float:
            if has_norms:
                recalibrate(model, inputs)
            best.look()
            return best.now

        first = look()

        def loss(batch: Arguments) -> Tensor:
            return _loss(model, dense, watched, reference.kind, batch)

        with bar(progress) as shown:
            task = shown.add_task(f"tune, outputs as {reference.kind.name}", total=steps)

            def descended(rate: float, most: float) -> bool:
                shown.reset(task)
                on_step = partial(shown.advance, task)
                return _descend(model, dense, loss, fitted, steps, rate, look, most, on_step)

            for cut in range(n_cuts + 1):
                most = TOO_FAR * first if cut < n_cuts else math.inf
                if descended(rate * CUT**cut, most):
                    break
                best.go_back()
        best.must_be_finite()
    return best.ratio


def rate_for(steps: int) -> float:
    """Return the largest learning rate for a number of steps."""
    return LEARNING_RATE * min(1.0, steps / MANY_STEPS)


def with_holders(names: Sequence[str]) -> list[str]:
    """Return the names of layers, then those of all modules that hold them, but the network's.

    What a block puts out comes after its batch norm and its sum: errors count there as the next
    block sees them, and images that are not fitted to gain more by it.
    """
    parts = [name.split(".") for name in names]
    holders = (".".join(path[:k]) for path in parts for k in range(1, len(path)))
    return list(dict.fromkeys([*names, *holders]))


def _split(inputs: Sequence[Arguments]) -> tuple[list[Arguments], list[Arguments]]:
    """Return the images to fit to and those that judge: some of each batch, or some batches."""
    fitted, judging = [], []
    for place, batch in enumerate(inputs, 1):
        n_held = len(batch) // HELD_OUT if batch.is_divisible else 0
        if n_held:
            fitted.append(batch.images(0, len(batch) - n_held))
            judging.append(batch.images(len(batch) - n_held, len(batch)))
        else:
            (fitted if place % HELD_OUT else judging).append(batch)
    return fitted, judging or list(inputs)


def _descend(
    model: nn.Module,
    dense: nn.Module,
    loss_of: Callable[[Arguments], Tensor],
    inputs: Sequence[Arguments],
    steps: int,
    learning_rate: float,
    look: Callable[[], float],
    most: float,
    on_step: Callable[[], None],
) -> bool:
    """Take the steps; look at the network a few times, at the end in any case.

    Returns:
        False where it ends at the first look, or before, for a divergence of more than `most`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    optimizer = torch.optim.Adam(parameters, learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: min((k + 1) / (WARM_UP * steps), 1.0) * (1.0 + math.cos(math.pi * k / steps)) / 2,
    )
    n_looks = min(N_JUDGED, max(steps // FEWEST_STEPS, 1))
    looked_after = {round(steps * (i + 1) / n_looks) for i in range(n_looks)}
    with (
        evaluating(model),
        evaluating(dense),
        recurrent_differentiable(model),
        torch.enable_grad(),
        gradients_aside(parameters),
    ):
        for step in range(steps):
            for norm in norms:
                norm.train()
            optimizer.zero_grad()
            loss = loss_of(inputs[step % len(inputs)])
            must_have_gradient(loss)
            value = float(loss.detach())
            if not math.isfinite(value):
                if math.isfinite(most):
                    return False
                raise ValueError(
                    f"the loss must be finite, got {value} at step {step + 1}; take a "
                    "smaller `learning_rate`. The network is as it was."
                )
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.step()
            on_step()
            if step + 1 in looked_after:
                optimizer.zero_grad()
                if not look() <= most:
                    return False
                most = math.inf
    return True


def _loss(
    model: nn.Module, dense: nn.Module, names: Sequence[str], kind: OutputKind, batch: Arguments
) -> Tensor:
    """Return the divergence of the outputs, plus `Σₗ ‖yₗ − tₗ‖² / ‖tₗ‖²` over the modules."""
    with torch.no_grad(), _outputs(dense, names) as targets:
        target = output_of(dense, batch, "the batches")
    with _outputs(model, names) as outputs:
        output = batch.run(model)
    divergence = kind.divergence(output, target, TEMPERATURE)
    # Not of what other parts of an image reach in the two networks.
    both = [name for name in names if _shapes(outputs[name]) == _shapes(targets[name]) != []]
    if both:
        own, theirs = ([side[name] for name in both] for side in (outputs, targets))
        divergence = divergence + KINDS["values"].divergence(own, theirs, TEMPERATURE)
    return divergence


def _shapes(outputs: list[object]) -> list[torch.Size]:
    return [tensor.shape for tensor in real_tensors(outputs)]


@contextmanager
def _outputs(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[object]]]:
    """Collect module name -> the outputs of its calls."""
    outputs: dict[str, list[object]] = {name: [] for name in names}

    def keeper(name: str) -> Callable[..., object]:
        def keep(_: nn.Module, __: object, output: object) -> object:
            outputs[name].append(output)
            return map_tensors(Tensor.clone, output)  # the next may work in place

        return keep

    handles = [network.get_submodule(n).register_forward_hook(keeper(n)) for n in names]
    try:
        with uncompiled():
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _check(model: nn.Module, names: list[str], steps: int, learning_rate: float) -> None:
    if not names:
        raise ValueError("the network must have factorized layers to tune, but has none.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the network must have parameters that want gradients, but has none.")
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    if not learning_rate > 0:
        raise ValueError(f"`learning_rate` must be positive, got {learning_rate}.")
