"""Fit a compressed network to what the dense one computes, without labels."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from sekron.calibration.divergence import divergence
from sekron.forward import Batches, evaluating, inputs_of, output_of
from sekron.network.counterparts import paired
from sekron.progress import bar
from sekron.training.batch_norm import norms_with_statistics, recalibrate

LEARNING_RATE = 2e-3
CLIP = 1.0
"""Norm to which a gradient is cut."""

TEMPERATURE = 2.0
"""Temperature at which the class probabilities of both networks are compared."""


def tune(
    model: nn.Module,
    dense: nn.Module,
    batches: Batches,
    *,
    steps: int = 600,
    learning_rate: float = LEARNING_RATE,
    progress: bool = True,
) -> float:
    """Fit a compressed network, in place, to the activations of the dense one.

    Every factorized layer gets its input from the compressed layers before it, and is to put out
    what the dense layer does; so is the network. All parameters that want gradients are fitted.
    Batch norm uses the batch meanwhile, and is re-estimated before and after. The network ends as
    it fitted best: as it came, with batch norm re-estimated, or fitted.

    Args:
        model: From `Plan.apply` on `dense`; its parameters and batch-norm buffers are changed.
        dense: Not modified.
        batches: Unlabelled inputs, or `(input, …)` tuples whose first entry is taken; they are
            gone through again and again.
        steps: Steps of the optimizer, one batch each.
        learning_rate: First learning rate, which falls to zero along a cosine. Few steps want a
            smaller one.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The misfit afterwards over the one before, at most 1. It is `Σₗ ‖yₗ − tₗ‖² / ‖tₗ‖²`, for
        the outputs of each layer in both networks, plus the divergence of the networks' outputs.

    Raises:
        ValueError: If nothing is factorized or wants gradients, there are no batches, the networks
            do not run on one or do not fit together, an argument is out of range, or the loss is
            not finite; the network is then as it was.

    Reference:
        Romero et al., FitNets, arXiv 1412.6550; Hinton et al., Distilling the knowledge in a
        neural network, arXiv 1503.02531, for the output.
    """
    names = list(paired(model, dense))
    inputs = list(inputs_of(batches, "`batches`"))
    _check(model, names, steps, learning_rate)
    before = copy.deepcopy(model.state_dict())
    norms = norms_with_statistics(model)
    states: list[tuple[float, dict[str, Tensor]]] = []

    def take() -> None:
        misfit = _misfit(model, dense, names, inputs)
        if math.isfinite(misfit):
            states.append((misfit, copy.deepcopy(model.state_dict())))

    try:
        take()
        if norms:
            recalibrate(model, inputs)
            take()
        _descend(model, dense, names, inputs, steps, learning_rate, progress)
        if norms:
            recalibrate(model, inputs)
        take()
        if not states:
            raise ValueError("the networks' outputs must be finite on the batches, but are not.")
    except BaseException:
        model.load_state_dict(before)
        raise
    initial = states[0][0]
    misfit, state = min(states, key=itemgetter(0))
    model.load_state_dict(state)
    return misfit / initial if initial > 0.0 else 1.0


def _descend(
    model: nn.Module,
    dense: nn.Module,
    names: list[str],
    inputs: list[Tensor],
    steps: int,
    learning_rate: float,
    progress: bool,
) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with evaluating(model), evaluating(dense), torch.enable_grad(), bar(progress) as shown:
        for norm in norms:
            norm.train()
        for step in shown.track(range(steps), description="tune"):
            optimizer.zero_grad()
            loss = _loss(model, dense, names, inputs[step % len(inputs)])
            value = float(loss.detach())
            if not math.isfinite(value):
                raise ValueError(
                    f"the loss must be finite, got {value} at step {step + 1}; take a "
                    "smaller `learning_rate`. The network is as it was."
                )
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            schedule.step()
        optimizer.zero_grad()


def _misfit(model: nn.Module, dense: nn.Module, names: list[str], inputs: list[Tensor]) -> float:
    with evaluating(model), evaluating(dense):
        losses = [float(_loss(model, dense, names, x)) * len(x) for x in inputs]
    return sum(losses) / sum(map(len, inputs))


def _loss(model: nn.Module, dense: nn.Module, names: list[str], x: Tensor) -> Tensor:
    """Return `Σₗ ‖yₗ − tₗ‖² / ‖tₗ‖²` over the layers, plus the divergence of the outputs."""
    with torch.no_grad(), _outputs(dense, names) as targets:
        target = output_of(dense, x, "the batches")
    with _outputs(model, names) as outputs:
        output = model(x)
    terms = [
        (a - b).square().sum() / b.square().sum().clamp_min(1e-12)
        for name in names
        for a, b in zip(outputs[name], targets[name], strict=True)
    ]
    pairs = zip(tree_leaves(output), tree_leaves(target), strict=True)
    terms += [divergence(a, b, TEMPERATURE) for a, b in pairs if isinstance(a, Tensor)]
    return torch.stack(terms).sum()


@contextmanager
def _outputs(network: nn.Module, names: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect layer name -> the outputs of its calls."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keeper(name: str) -> Callable[..., Tensor]:
        def keep(_: nn.Module, __: object, output: Tensor) -> Tensor:
            outputs[name].append(output)
            return output.clone()  # the next operation may work in place

        return keep

    handles = [network.get_submodule(n).register_forward_hook(keeper(n)) for n in names]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _check(model: nn.Module, names: list[str], steps: int, learning_rate: float) -> None:
    if not names:
        raise ValueError("the network must have factorized layers to tune, but has none.")
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("the network must have parameters that want gradients, but has none.")
    if steps < 1 or not learning_rate > 0:
        raise ValueError(
            f"`steps` must be at least 1 and `learning_rate` positive, got {steps} and "
            f"{learning_rate}."
        )
