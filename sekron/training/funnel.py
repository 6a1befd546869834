"""Ranks by training instead of by spectrum: gates that a penalty closes."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sekron.budget import RESOURCES, Budget, InfeasibleBudget, must_be_budget
from sekron.calibration.output_kind import Output
from sekron.decomposition.decompose import reconstruct
from sekron.forward.inputs import Inputs
from sekron.layers.factorized import Factorized, in_place_of
from sekron.layers.operations import DEFAULT_FORM
from sekron.network.copying import copy_of
from sekron.network.eligibility import replaceable_modules
from sekron.network.opening import opened
from sekron.network.plan import Plan
from sekron.network.surgery import blank_layer, compressed, weight_of
from sekron.network.swap import swap
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.profile import profile
from sekron.profiling.selection import Selection
from sekron.scalars import number
from sekron.structures.families import Point, clipped_ranks, n_ranks
from sekron.structures.structure import Structure
from sekron.structures.templates import channel_svd, tucker2
from sekron.training.finetune import Loader, fit
from sekron.training.funnel_penalty import Funnel
from sekron.training.gates import Gated, gated
from sekron.training.recipe import DEFAULT_RECIPE, Recipe
from sekron.training.record import Epoch
from sekron.training.regularizer import Regularizer

GATE_RATE = 10.0
"""Learning rate of the gates over that of the weights."""

DEFAULT_PENALTY = Funnel()

CLOSED = 0.01
"""Size below which a gate is closed in any case, relative to the first values in its bond."""


@dataclass(frozen=True)
class FunnelResult:
    """The result of a training with gates.

    Attributes:
        network: The trained network, with the ranks that are left.
        plan: Its structures; `plan.apply` decomposes a dense network without what was trained.
        epochs: The epochs of the training.
    """

    network: nn.Module
    plan: Plan
    epochs: list[Epoch]


def funnel(
    model: nn.Module,
    loader: Loader,
    example_input: Inputs,
    *,
    budget: Budget,
    dense: nn.Module | None = None,
    penalty: Funnel = DEFAULT_PENALTY,
    recipe: Recipe = DEFAULT_RECIPE,
    gate_rate: float = GATE_RATE,
    point: Callable[[tuple[int, ...]], Point] | None = None,
    include: Selection | None = None,
    exclude: Selection | None = None,
    folder: str | Path | None = None,
    output: Output | None = None,
    progress: bool = True,
) -> FunnelResult:
    """Choose the ranks of a network by training it with gates that a penalty closes.

    Training begins without loss, at full ranks. The penalty acts while the network without its
    closed gates is beyond the budget, and rests otherwise; the rest of the training repairs.
    Afterwards the gates that closed most are dropped, as many as the budget asks for, across all
    layers; a layer that does not save anything is dense again.

    Args:
        model: The trained dense network; not modified.
        loader: As in `sekron.finetune`.
        example_input: What its forward takes, to count FLOPs.
        budget: Limits of FLOPs, of parameters, or of both.
        dense: The network that teaches, or None.
        penalty: Penalty on the gates.
        recipe: How to train.
        gate_rate: Learning rate of the gates over that of the weights.
        point: Returns family and factor shapes for a weight shape; default Tucker-2, and channel
            SVD where the kernel is 1×1.
        include: Patterns of the layers to factorize, as in `search.run`.
        exclude: Patterns of layers to leave dense.
        folder: As in `sekron.finetune`.
        output: As in `sekron.finetune`.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The network, ready for `sekron.recalibrate` and `sekron.finetune`, and its plan.

    Raises:
        InfeasibleBudget: Before the training, if ranks of one do not meet the budget.
        ValueError: If the budget limits latency or nothing, the family is `ring`, `gate_rate` is
            not positive, there is nothing to factorize, or as `sekron.finetune` does.
        TypeError: If the budget is no `Budget`.

    Reference:
        Chu, Lee, Funnel regularization; thresholds here are relative to the first values.
    """
    must_be_budget(budget)
    is_limited = any(getattr(budget, name) is not None for name in RESOURCES)
    if not (budget.is_static and is_limited):
        raise ValueError(f"a funnel's budget must limit FLOPs or parameters, got {budget}.")
    gate_rate = number("gate_rate", gate_rate)
    if not gate_rate > 0:
        raise ValueError(f"`gate_rate` must be positive, got {gate_rate}.")
    measured = profile(model, example_input, include, exclude)
    own = replaceable_modules(model)  # the others appear where a module is opened
    model = opened(model, [layer.name for layer in measured.searched])
    structures = {x.name: _largest(x, point or _default_point) for x in measured.searched}
    if not structures:
        raise ValueError("the network has no layer that can be factorized.")
    network = _gate(compressed(model, structures), structures)
    layers = gated(network)
    _threshold(budget, measured, layers)  # refuses a budget that is out of reach
    gates = [gate for layer in layers.values() for gate in layer.gates]

    def hold() -> None:
        for layer in layers.values():
            layer.hold()

    def penalize(share: float) -> Tensor:
        if _holds(budget, measured, layers, CLOSED):
            return torch.zeros((), device="cpu")  # goes with any other
        # Asked for anew, as training moves the layers to another device.
        pairs = [(g, v) for x in layers.values() for g, v in zip(x.gates, x.first, strict=True)]
        return penalty.penalty([gate for gate, _ in pairs], [value for _, value in pairs], share)

    regularizer = Regularizer(
        f"{penalty} at {gate_rate} for {budget!r}",
        gates,
        gate_rate,
        penalize,
        hold,
    )
    epochs = fit(
        network,
        loader,
        dense,
        None,
        recipe,
        folder,
        output,
        progress,
        regularizer,
        source=model,  # what is computed from it rounds otherwise on another machine
    )
    threshold = _threshold(budget, measured, layers)
    saving = _plan(budget, measured, layers, threshold)
    # A file of the network tells by its plan what is to be opened again.
    whole = {
        layer.name: Structure.dense(layer.weight_shape, layer.groups)
        for layer in measured.searched
        if layer.name not in saving and layer.name not in own
    }
    plan = Plan({**saving, **whole})
    final = {
        name: _as_planned(
            trained,
            model.get_submodule(name),
            plan.get(name),
            trained.cut(threshold) if name in saving else _whole(trained),
        )
        for name, trained in layers.items()
    }
    return FunnelResult(swap(network, final), plan, epochs)


def _whole(trained: Gated) -> tuple[Tensor, ...]:
    """Return the whole weight of a layer, as the one factor that it then has."""
    return (reconstruct(trained.factors(), trained.layer.structure).detach(),)


def _as_planned(
    trained: Gated, original: nn.Module, structure: Structure | None, factors: Sequence[Tensor]
) -> nn.Module:
    """Return a layer of a structure with these factors; without one, a dense layer."""
    if structure is None:
        layer = in_place_of(trained.layer, copy_of(original))
        weight_of(layer, "").data.copy_(factors[0])
        return layer
    small = blank_layer(original, structure, DEFAULT_FORM)
    small.set_factors(factors)
    return in_place_of(trained.layer, small)


def _default_point(weight_shape: tuple[int, ...]) -> Point:
    pointwise = all(extent == 1 for extent in weight_shape[2:])
    return channel_svd(weight_shape) if pointwise else tucker2(weight_shape)


def _largest(layer: LayerProfile, point: Callable[[tuple[int, ...]], Point]) -> Structure:
    """Return a structure at full ranks."""
    family, shapes = point(layer.block_shape)
    if family == "ring":
        raise ValueError(
            "a funnel starts without loss, which a ring does as a chain: take `chain`."
        )
    unlimited = [layer.params] * n_ranks(family, len(shapes))
    return Structure(family, shapes, clipped_ranks(family, shapes, unlimited), layer.groups)


def _gate(network: nn.Module, names: Iterable[str]) -> nn.Module:
    """Put gates on some factorized layers."""
    layers = {}
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, Factorized)
        layers[name] = Gated(layer)
    return swap(network, layers)


def _plan(
    budget: Budget, measured: NetworkProfile, layers: dict[str, Gated], threshold: float
) -> Plan:
    """Return the structures of the layers that are smaller than dense in what is limited."""
    resources = list(measured.available(budget))
    structures = {}
    for layer in measured.searched:
        structure = layers[layer.name].structure(threshold)
        costs = {"flops": layer.flops_of(structure), "params": structure.n_params}
        if any(costs[name] < layer.dense(name) for name in resources):
            structures[layer.name] = structure
    return Plan(structures)


def _holds(
    budget: Budget, measured: NetworkProfile, layers: dict[str, Gated], threshold: float
) -> bool:
    """Return whether the network meets the budget without the gates below a threshold."""
    totals = measured.totals(_plan(budget, measured, layers, threshold))
    limits = {name: budget.limit(name, measured.dense(name)) for name in RESOURCES}
    return all(limit is None or totals[name] <= limit for name, limit in limits.items())


def _threshold(budget: Budget, measured: NetworkProfile, layers: dict[str, Gated]) -> float:
    """Return the least threshold at which the budget holds."""
    gates = [sizes for layer in layers.values() for sizes in layer.sizes]
    sizes: set[float] = set(torch.cat(gates).tolist())
    steps = [CLOSED, *sorted(size for size in sizes if size > CLOSED), math.inf]
    # The first step that holds; every gate that is dropped makes the network smaller.
    first = bisect.bisect_left(
        steps, True, key=lambda threshold: _holds(budget, measured, layers, threshold)
    )
    if first == len(steps):
        raise InfeasibleBudget(
            f"the budget must be reachable, got {budget}; with all ranks at one these structures "
            "still use more. Raise it, or give other factor shapes as `point`."
        )
    return steps[first]
