"""What the command line names: a model, its weights, labelled images, a limit."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from search.cli.output import SHOWN_BY
from search.cli.trained import load_tensors, load_trained
from sekron.forward.evaluation import Score, one_line
from sekron.records import short


def load_model(spec: str, weights: str = "") -> nn.Module:
    """Make the model that a spec names, in evaluation mode.

    Args:
        spec: `module:attribute`, the attribute being a model or a function that returns one; the
            working directory is searched too.
        weights: A state dict: safetensors, or a torch file, of which only tensors are read; it may
            be nested in a checkpoint, and come from a network in a wrapper.

    Raises:
        ValueError: If the spec names no model, or the weights are no state dict or do not fit.
        FileNotFoundError: If there is no such file.
    """
    attribute = _attribute(spec, "a model")
    model = attribute if isinstance(attribute, nn.Module) else _called(attribute, spec)
    if weights:
        load_trained(model, weights)
    return model.eval()


def load_score(spec: str) -> Score:
    """Return the function that a spec names, which scores a network.

    Args:
        spec: `module:attribute`, as for a model.

    Raises:
        ValueError: If it names none.
    """
    function = _attribute(spec, "a score")
    if not callable(function):
        raise ValueError(f"{spec} must be a function of a network, got {function!r}.")

    def score(network: nn.Module) -> float:
        with _told(f"{spec} must score the network"):
            value: float = function(network)
            return value

    return score


def load_labelled(path: str) -> tuple[Tensor, Tensor]:
    """Return the tensors `images` (N, …) and `labels` (N) of a file.

    Raises:
        ValueError: If it does not hold them.
    """
    tensors = load_tensors(path)
    images, labels = tensors.get("images"), tensors.get("labels")
    if images is None or labels is None or labels.dim() != 1 or len(images) != len(labels):
        raise ValueError(
            f"{path} must hold `images` (N, …) and `labels` (N), got "
            f"{', '.join(f'{name} {tuple(t.shape)}' for name, t in tensors.items()) or 'nothing'}."
        )
    return images, labels


def parse_limit(text: str) -> float:
    """Read a limit: `50%` or `0.5` is a share of the dense network, `900000` a number.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_limit("50%"), parse_limit("0.5"), parse_limit("900000")
        (0.5, 0.5, 900000)
    """
    try:
        if text.endswith("%"):
            return float(text[:-1]) / 100.0
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise ValueError(f"a limit reads '50%', '0.5' or '900000', got {short(text)!r}.") from None


@contextmanager
def _told(rule: str) -> Iterator[None]:
    """Say which rule the user's code breaks by raising, whatever it raises."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit` too
        raise ValueError(f"{rule}, but raised {one_line(error)} {SHOWN_BY}") from error


def _attribute(spec: str, what: str) -> object:
    if ":" not in spec:
        raise ValueError(f"{what} reads 'module:attribute', got {short(spec)!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, _, attribute = spec.partition(":")
    with _told(f"module {module!r} of {spec!r} must be importable"):
        pkgutil.resolve_name(f"{module}:")
    with _told(f"module {module!r} must have the attribute {attribute!r} of {spec}"):
        return pkgutil.resolve_name(spec)


def _called(function: object, spec: str) -> nn.Module:
    if not callable(function):
        raise ValueError(
            f"{spec} must be a model or a function that returns one, got {function!r}."
        )
    with _told(f"{spec} must return a model when called without arguments"):
        model = function()
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec} must return a torch.nn.Module, got {type(model).__name__}.")
    return model
