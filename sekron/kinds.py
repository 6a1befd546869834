"""The classes of layers that are listed, and replaced or left dense with a reason."""

from typing import TypeVar

from torch import nn

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Their weight is `(in, out, kernel…)`, that of all others `(out, in, kernel…)`."""

KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED, nn.Linear)
"""What is listed; subclasses too, each with the reason why it is left dense."""

Kind = TypeVar("Kind", bound=type[nn.Module])

_registered: set[type[nn.Module]] = set()


def register(kind: Kind) -> Kind:
    """Say of a subclass that it computes what its base does, so that it may be replaced.

    Otherwise only the exact classes of torch are, since a subclass may do something else with its
    weight.

    Args:
        kind: Of a convolution or a linear layer; returned, so that this serves as a decorator.

    Raises:
        ValueError: If it is no subclass of one.

    Example:
        >>> @register
        ... class NamedLinear(nn.Linear):
        ...     pass
    """
    if not (isinstance(kind, type) and issubclass(kind, KINDS)):
        raise ValueError(f"a subclass of a convolution or of nn.Linear is needed, got {kind!r}.")
    _registered.add(kind)
    return kind


def is_known(module: nn.Module) -> bool:
    """Whether a layer is of one of the exact classes, or of one that was registered."""
    return type(module) in KINDS or type(module) in _registered
