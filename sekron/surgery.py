"""Which modules of a network can be replaced, and how to replace them in a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from sekron.conv import SeKronConv, SeKronConv2d
from sekron.decomposition import decompose
from sekron.emission import DEFAULT, Form
from sekron.factorized import Factorized, in_place_of
from sekron.kinds import KINDS, TRANSPOSED, is_known
from sekron.linear import SeKronLinear
from sekron.metric import Metric
from sekron.structure import Structure
from sekron.transposed import SeKronConvTranspose

DEPTHWISE = "depthwise convolution, not worth it"
"""Why such a one is left dense: its groups have nothing that a rank could be of."""


def replaceable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of all convolutions and linear layers, each module once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KINDS)}


def reason_to_skip(module: nn.Module) -> str:
    """Return why a module cannot be replaced, or nothing if it can.

    Only the exact classes are taken: a subclass may compute something else with its weight.
    """
    return _odd_class(module) or _odd_weight(module._parameters.get("weight"))


def _odd_class(module: nn.Module) -> str:
    if not is_known(module) and not _is_lazy(module):
        base = next(kind for kind in KINDS if isinstance(module, kind))
        kind = type(module)
        own = (
            kind.__name__
            if kind.__name__ != base.__name__
            else f"{kind.__module__}.{base.__name__}"
        )
        return f"{own} may not compute what {base.__name__} does: see `sekron.register`"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    return DEPTHWISE if _is_depthwise(module) else ""


def _odd_weight(weight: nn.Parameter | None) -> str:
    if weight is None:
        return "its weight is computed from other parameters"
    if isinstance(weight, UninitializedParameter):
        return "is lazy: run the network once, so that it knows its shape"
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    return "" if weight.is_floating_point() else f"its weight is of type {weight.dtype}"


def _is_lazy(module: nn.Module) -> bool:
    """Whether a module learns the shape of its weight when it runs first."""
    return isinstance(module._parameters.get("weight"), UninitializedParameter)


def _is_depthwise(module: nn.Module) -> bool:
    """Whether every group of a convolution has a single channel on one side."""
    groups = int(getattr(module, "groups", 1))
    return groups > 1 and groups in (module.in_channels, module.out_channels)


def shared_weights(model: nn.Module) -> dict[str, str]:
    """Return layer -> another user of its weight; replacing one alone would untie them."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(name)
    shared = {}
    for name, module in replaceable_modules(model).items():
        others = [user for user in users.get(id(module.weight), []) if user != name]
        if others:
            shared[name] = others[0] or "the network itself"
    return shared


def replace(
    model: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form] = MappingProxyType({}),
    factors: Mapping[str, Sequence[Tensor]] = MappingProxyType({}),
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> nn.Module:
    """Return a copy of a network in which the named layers are decomposed.

    A module that stands in several places is replaced in all of them by one layer.

    Args:
        model: Not modified; nothing is shared with the copy.
        structures: Layer name -> structure.
        forms: Layer name -> how it runs, where that is not the default.
        factors: Layer name -> its factors, as `decompose` returns them; the weights of all other
            layers are decomposed here.
        metrics: Layer name -> metric that its weight is decomposed in.

    Raises:
        ValueError: If a name is no layer, cannot be replaced, or has another weight shape; the
            first such layer is named.
    """
    network = copy.deepcopy(model)
    _check(network, structures)

    def fit(name: str, module: nn.Module, structure: Structure, form: Form) -> nn.Module:
        layer, weight = blank_layer(module, structure, form), module.weight
        assert isinstance(weight, Tensor)
        known = factors.get(name)
        layer.set_factors(known or decompose(weight, structure, metric=metrics.get(name)))
        return layer

    return swap(network, _made(network, structures, forms, fit))


def rebuild(
    model: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form] = MappingProxyType({}),
) -> nn.Module:
    """Return a copy of a network with factorized layers, their factors not yet filled in."""
    network = copy.deepcopy(model)
    _check(network, structures)
    return swap(network, _made(network, structures, forms, lambda _, *of: blank_layer(*of)))


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
    for name, structure in structures.items():
        if name not in modules or not isinstance(modules[name], KINDS):
            found = type(modules[name]).__name__ if name in modules else "no module"
            raise ValueError(
                f"the plan must fit the network, but layer {name!r} is {found} there; "
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


def blank_layer(module: nn.Module, structure: Structure, form: Form) -> Factorized:
    """Return a factorized layer in place of a dense one, its factors not yet filled in."""
    if isinstance(module, nn.Linear):
        return SeKronLinear.like(module, structure, form)
    assert isinstance(module, _ConvNd)
    if isinstance(module, TRANSPOSED):
        return SeKronConvTranspose.like(module, structure, form)
    kind = SeKronConv2d if isinstance(module, nn.Conv2d) else SeKronConv
    return kind.like(module, structure, form)


def _made(
    network: nn.Module,
    structures: Mapping[str, Structure],
    forms: Mapping[str, Form],
    make: Callable[[str, nn.Module, Structure, Form], nn.Module],
) -> dict[str, nn.Module]:
    """Make the layers to put in; an error says for which."""
    layers = {}
    for name, structure in structures.items():
        module, form = network.get_submodule(name), forms.get(name, DEFAULT)
        try:
            layers[name] = in_place_of(module, make(name, module, structure, form))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
    return layers


def swap(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Put layers into a network by name, in all places where the old ones stand; return it."""
    replaced = {id(network.get_submodule(name)): layer for name, layer in layers.items()}
    if id(network) in replaced:
        return replaced[id(network)]
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if id(child) in replaced:
                parent._modules[name] = replaced[id(child)]
    return network


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the weight of a layer."""
    weight = model.get_submodule(name).weight
    assert isinstance(weight, Tensor)
    return weight


def check_finite(model: nn.Module, names: list[str]) -> None:
    """Raise a ValueError that names the first layer whose weight is not finite."""
    for name in names:
        if not torch.isfinite(weight_of(model, name)).all():
            raise ValueError(f"the weight of layer {name!r} must be finite, got NaN or Inf in it.")
