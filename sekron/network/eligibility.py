"""Which layers can be replaced, and why the others stay dense."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from sekron.network.openers import OPENERS, Opener, class_name
from sekron.structures.families import block_shape

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Their weight is `(in, out, kernel…)`, that of all others `(out, in, kernel…)`."""

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)
"""Classes whose layers are listed; those of subclasses are too, with the reason to skip them."""

Kind = TypeVar("Kind", bound=type[nn.Module])

_registered: set[type[nn.Module]] = set()


def register(kind: Kind, opener: Opener | None = None) -> Kind:
    """Declare that a subclass computes what its base does, so that its layers may be replaced.

    Otherwise only layers of torch's exact classes are replaced, since a subclass may do something
    else with its weight. Of a class of any other kind, tell how a module of it is written with
    convolutions and linear layers.

    Args:
        kind: Subclass of a convolution or a linear layer, or any module's class with an `opener`;
            it is returned, so that this serves as a decorator.
        opener: From a module of that very class, a copy that may be taken apart, to a module that
            computes the same with layers of torch as parts that it calls, or to such a layer.

    Raises:
        ValueError: If it is no such class.

    Example:
        >>> @register
        ... class NamedLinear(nn.Linear):
        ...     pass
    """
    if not (isinstance(kind, type) and issubclass(kind, KINDS if opener is None else nn.Module)):
        raise ValueError(
            "a subclass of a convolution or of nn.Linear is needed, or any module's class with "
            f"`opener`, got {kind!r}."
        )
    if opener is None:
        _registered.add(kind)
    else:
        OPENERS[class_name(kind)] = opener
    return kind


def is_known(module: nn.Module) -> bool:
    """Whether a layer is of one of torch's exact classes, or of one that was registered."""
    return type(module) in KINDS or type(module) in _registered


def replaceable_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> module of all convolutions and linear layers, each module once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, KINDS)}


def reason_to_skip(module: nn.Module) -> str:
    """Return why a module cannot be replaced; empty if it can.

    Only the exact classes are taken: a subclass may compute something else with its weight.
    """
    if name := computed(module):  # first, as a parametrization also changes the class
        return f"its {name} is computed from other parameters"
    if reason := _odd_class(module):
        return reason
    return _odd_weight(module._parameters["weight"])


def computed(module: nn.Module) -> str:
    """Return which of a layer's tensors is computed from other parameters; empty if none is.

    Parametrizations do that, and the hooks of weight norm, spectral norm and pruning masks.
    """
    if module._parameters.get("weight") is None:
        return "weight"
    return "" if "bias" in module._parameters else "bias"


def _odd_class(module: nn.Module) -> str:
    if not is_known(module) and not _is_lazy(module):
        base = next(kind for kind in KINDS if isinstance(module, kind))
        kind = type(module)
        name = (
            kind.__name__
            if kind.__name__ != base.__name__
            else f"{kind.__module__}.{base.__name__}"
        )
        return f"{name} may not compute what {base.__name__} does: see `sekron.register`"
    if "forward" in vars(module):
        return "its forward was replaced by another function"
    return "depthwise convolution, not worth it" if is_depthwise(module) else ""


def _odd_weight(weight: nn.Parameter | None) -> str:
    if isinstance(weight, UninitializedParameter):
        return "is lazy: run the network once, so that it knows its shape"
    if type(weight) is not nn.Parameter:
        return f"its weight is a {type(weight).__name__}"
    if not weight.is_floating_point():
        return f"its weight is of type {weight.dtype}"
    return "" if weight.numel() else "its weight holds no numbers"


def _is_lazy(module: nn.Module) -> bool:
    """Whether a module learns the shape of its weight when it runs first."""
    return isinstance(module._parameters.get("weight"), UninitializedParameter)


def is_depthwise(module: nn.Module) -> bool:
    """Whether every group of a convolution has a single channel on one side.

    A group then has no matrix of channels whose rank could be lowered.
    """
    groups = int(getattr(module, "groups", 1))
    return groups > 1 and groups in (module.in_channels, module.out_channels)


def is_vector(module: nn.Module) -> bool:
    """Whether a layer's weight, or the part of it for one group, has one long axis at most.

    Factors of a vector have no fewer FLOPs at any rank.
    """
    weight = module.weight
    assert isinstance(weight, Tensor)
    block = block_shape(tuple(weight.shape), int(getattr(module, "groups", 1)))
    return sum(size > 1 for size in block) < 2


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Return layer -> what it shares and with whom; replacing one alone would untie them."""
    users: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(name)
    shared = {}
    for name, module in replaceable_modules(model).items():
        partners = [
            f"{kind} with {user or 'the network itself'}"
            for kind, parameter in module._parameters.items()
            for user in users.get(id(parameter), [])
            if user != name
        ]
        if partners:
            shared[name] = partners[0]
    return shared
