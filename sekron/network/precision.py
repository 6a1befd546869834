"""Networks in half precision: what is computed about them is computed in single precision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from sekron.decomposition.narrow import narrowed
from sekron.forward.evaluation import said
from sekron.forward.tensors import map_tensors
from sekron.layers.factorized import Factorized

HALF = (torch.float16, torch.bfloat16)

P = ParamSpec("P")
Result = TypeVar("Result")


def in_single_precision(function: Callable[P, Result]) -> Callable[P, Result]:
    """Let a function of networks and batches compute in single precision where they are in half.

    Sums overflow in half precision, small gradients vanish, averages stand still. So the networks
    and the batches are cast for as long as the function runs; then the networks are cast back, in
    their own memory, and what the function has not changed is as it was.

    Args:
        function: Takes networks and batches among its arguments.

    Raises:
        ValueError: If numbers are too large for the networks' dtype at the end, or a network casts
            to half precision itself; the networks are then as they were.
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> Result:
        networks = [x for x in (*args, *kwargs.values()) if isinstance(x, nn.Module)]
        if not any(tensor.dtype in HALF for tensor in _tensors(networks)):
            return function(*args, **kwargs)
        cast: Callable[..., Result] = function
        try:
            with _in_single(networks):
                return cast(*map(_widened, args), **{k: _widened(x) for k, x in kwargs.items()})
        except ValueError as error:
            if not _names_half(error.__cause__):
                raise
            raise ValueError(
                f"{error}; a network in half precision runs in single here, so that its forward "
                "must not cast to half by itself: let it cast to the dtype of a weight."
            ) from error

    return computed


def check_trainable(model: nn.Module) -> None:
    """Raise a ValueError if a network's parameters are in half precision, which training needs not.

    Its steps are smaller than the last digit of what they are added to.
    """
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype in HALF:
            raise ValueError(
                "the network must be in single precision to be trained, got "
                f"{parameter.dtype} for {name!r}; train `network.float()`, with "
                "`mixed_precision` in the recipe, and cast it afterwards."
            )


def _names_half(error: BaseException | None) -> bool:
    """Whether torch has met half precision beside single."""
    text = "" if error is None else said(error)
    return any(name in text for name in ("Half", "BFloat16"))


@contextmanager
def _in_single(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Cast the networks' tensors of half precision, and cast back what has become of them."""
    held = [(t, t.data, t.grad) for t in _tensors(networks) if t.dtype in HALF]
    others = [(t.data, t.data.clone()) for t in _tensors(networks) if t.dtype not in HALF]
    found: dict[Tensor, Tensor] = {}
    too_large: list[Tensor] = []
    try:
        for tensor, half, _ in held:
            tensor.grad = None
            tensor.data = half.float()
        yield
    finally:
        try:
            found = _cast_back(networks, {tensor: half for tensor, half, _ in held})
            too_large = [t for t, cast in found.items() if (cast.isinf() & t.data.isfinite()).any()]
        finally:
            for tensor, half, grad in held:
                tensor.grad = None  # of the dtype of the data
                tensor.data = half
                tensor.grad = grad
                if tensor in found and not too_large:
                    half.copy_(found[tensor])
    if too_large:
        for tensor, before in others:
            tensor.copy_(before)
        dtype = too_large[0].dtype
        raise ValueError(
            f"what was found must fit into {dtype}, whose largest number is "
            f"{torch.finfo(dtype).max:g}, but does not; cast the network to torch.float32 first. "
            "It is as it was."
        )


def _cast_back(
    networks: Sequence[nn.Module], halves: Mapping[Tensor, Tensor]
) -> dict[Tensor, Tensor]:
    """Return tensor -> what it is in half precision now, for those that have changed.

    Sparse ones, which cannot be compared, are taken not to have.
    """
    found = {
        tensor: cast
        for tensor, half in halves.items()
        if half.layout == torch.strided
        and not torch.equal(cast := tensor.data.to(half.dtype), half)
    }
    layers = (m for network in networks for m in network.modules() if isinstance(m, Factorized))
    for layer in layers:
        weights = list(layer.weights)
        # Not where one is computed, from what a parametrization keeps.
        if all(weight in halves for weight in weights) and any(w in found for w in weights):
            values = narrowed([weight.data for weight in weights], halves[weights[0]].dtype)
            found.update(zip(weights, values, strict=True))
    return found


def _tensors(networks: Iterable[nn.Module]) -> list[Tensor]:
    """Return the parameters and the buffers of networks, each once."""
    found = (t for network in networks for t in (*network.parameters(), *network.buffers()))
    return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Widening:
    """Batches that are cast one by one, whenever they are gone through."""

    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return map(_widened, self.batches)


def _widened(value: Any) -> Any:
    """Cast what is half-precision tensors, or holds them, to single precision."""
    if isinstance(value, nn.Module | str):
        return value
    if isinstance(value, Iterable) and not isinstance(value, Tensor | Mapping | list | tuple):
        return _Widening(value)
    return map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALF else tensor, value)
