"""Replace layers of a network by others, in a copy of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sekron.decomposition.decompose import decompose
from sekron.layers.conv import SeKronConv, SeKronConv2d
from sekron.layers.factorized import Factorized, drawing_aside, in_place_of
from sekron.layers.linear import SeKronLinear
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.layers.transposed import SeKronConvTranspose
from sekron.network.copying import copy_of
from sekron.network.eligibility import KINDS, TRANSPOSED, reason_to_skip
from sekron.network.opening import open_modules, opened
from sekron.network.swap import swap
from sekron.structures.structure import Structure

FactorsOf = Callable[[str, Tensor, Structure], Sequence[Tensor]]


def compressed(
    model: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form] = MappingProxyType({}),
    factors_of: FactorsOf = lambda _, weight, structure: decompose(weight, structure),
) -> nn.Module:
    """Return a copy of a network in which the named layers are decomposed.

    A module that stands in several places is replaced in all of them by one layer.

    Args:
        model: Not modified; nothing is shared with the copy.
        structures: Layer name -> structure.
        forms: Layer name -> how it runs, where that is not the default.
        factors_of: Returns the factors of a layer, as `decompose` does, from its name, its weight
            and its structure.

    Raises:
        ValueError: If a name is no layer, cannot be replaced, or has another weight shape; the
            first such layer is named.
    """
    network = open_modules(copy_of(model), structures)
    _check(network, structures)

    def fit(name: str, module: nn.Module, structure: Structure, form: Form) -> nn.Module:
        layer, weight = blank_layer(module, structure, form), module.weight
        assert isinstance(weight, Tensor)
        layer.set_factors(factors_of(name, weight, structure))
        return layer

    return swap(network, _new_layers(network, structures, forms, fit))


def rebuild(
    model: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form] = MappingProxyType({}),
) -> nn.Module:
    """Return a copy of a network with factorized layers, their factors not yet filled in."""
    network = open_modules(copy_of(model), structures)
    _check(network, structures)
    return swap(
        network, _new_layers(network, structures, forms, lambda _, *rest: blank_layer(*rest))
    )


def structures_of(model: nn.Module) -> dict[str, Structure]:
    """Return layer name -> structure of the factorized layers in a network."""
    return {name: layer.structure for name, layer in _factorized(model)}


def forms_of(model: nn.Module) -> dict[str, Form]:
    """Return layer name -> form of the factorized layers in a network."""
    return {name: layer.form for name, layer in _factorized(model)}


def _factorized(model: nn.Module) -> Iterator[tuple[str, Factorized]]:
    for name, module in model.named_modules():
        if isinstance(module, Factorized):
            yield name, module


def _check(network: nn.Module, structures: Mapping[str, Structure]) -> None:
    modules = dict(network.named_modules(remove_duplicate=False))
    first: dict[int, str] = {}
    for name, structure in structures.items():
        if name not in modules or not isinstance(modules[name], KINDS):
            kind = type(modules[name]).__name__ if name in modules else "no module"
            raise ValueError(
                f"the plan must fit the network, but layer {name!r} is {kind} there; "
                "it was made for another network."
            )
        reason = reason_to_skip(modules[name])
        if reason:
            raise ValueError(f"layer {name!r} cannot be replaced: {reason}.")
        shape = tuple(modules[name].weight.shape)
        groups = getattr(modules[name], "groups", 1)
        if groups != structure.groups:
            raise ValueError(
                f"the plan must fit the network, but layer {name!r} has {groups} groups there "
                f"and {structure.groups} in the plan."
            )
        if shape != structure.weight_shape:
            raise ValueError(
                f"the plan must fit the network, but layer {name!r} has a weight {shape} there "
                f"and {structure.weight_shape} in the plan."
            )
        other = first.setdefault(id(modules[name]), name)
        if structures[other] != structure:
            raise ValueError(
                f"the plan must give one module one structure, but {other!r} and {name!r} are one "
                "and get two."
            )


def blank_layer(module: nn.Module, structure: Structure, form: Form) -> Factorized:
    """Return a factorized layer in place of a dense one, its factors not yet filled in."""
    with drawing_aside(module):
        if isinstance(module, nn.Linear):
            return SeKronLinear.like(module, structure, form)
        assert isinstance(module, _ConvNd)
        if isinstance(module, TRANSPOSED):
            return SeKronConvTranspose.like(module, structure, form)
        kind = SeKronConv2d if isinstance(module, nn.Conv2d) else SeKronConv
        return kind.like(module, structure, form)


def _new_layers(
    network: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form],
    make: Callable[[str, nn.Module, Structure, Form], nn.Module],
) -> dict[str, nn.Module]:
    """Make the layers to put in; an error names the layer."""
    layers = {}
    for name, structure in structures.items():
        module, form = network.get_submodule(name), forms.get(name, DEFAULT_FORM)
        try:
            layers[name] = in_place_of(module, make(name, module, structure, form))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return layers


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def check_finite(model: nn.Module, names: list[str]) -> None:
    """Raise a ValueError that names the first layer whose weight is not finite."""
    network = opened(model, names)
    for name in names:
        if not torch.isfinite(weight_of(network, name).detach()).all():
            raise ValueError(f"the weight of layer {name!r} must be finite, got NaN or Inf in it.")
