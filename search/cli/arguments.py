"""What several commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
import typer

from search.cli.sources import parse_limit, parse_shape
from sekron.budget import Budget

Value = TypeVar("Value")


def _parser(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a parser whose error says what its function says, instead of the value alone."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parsed


_limit, _shape = _parser(parse_limit), _parser(parse_shape)

Model = Annotated[str, typer.Argument(help="module:attribute of a model or a function")]
Storage = Annotated[str | None, typer.Option(help="Optuna storage URL.")]
Run = Annotated[str, typer.Argument(help="Run folder of a search.")]
NamedModel = Annotated[
    str, typer.Option("--model", help="module:attribute; default the one named here before.")
]
Weights = Annotated[str, typer.Option(help="State dict: .safetensors, or a torch file.")]
Input = Annotated[
    Any, typer.Option("--input", parser=_shape, help="Input shape, such as 1x3x224x224.")
]
Limit = Annotated[
    float | None, typer.Option(parser=_limit, help="Share ('50%', '0.5') or number ('900000').")
]
LatencyShare = Annotated[
    float | None, typer.Option(parser=_limit, help="Share of the dense time ('60%', '0.6').")
]
Milliseconds = Annotated[float | None, typer.Option(help="Time of a forward pass.")]
Speedup = Annotated[float | None, typer.Option(help="Dense time over that of the plan.")]
MinScore = Annotated[float | None, typer.Option(help="Least score; the fewest FLOPs with it.")]
Patterns = Annotated[list[str] | None, typer.Option(help="Pattern of layer names; repeatable.")]

MinShare = Annotated[
    float, typer.Option(help="Share of FLOPs or parameters that makes a layer worth it.")
]


def example_of(shape: tuple[int, ...]) -> torch.Tensor:
    """Return random numbers, always the same, for a network to be run on."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def budget_of(
    flops: float | None,
    params: float | None,
    latency: float | None = None,
    latency_ms: float | None = None,
    speedup: float | None = None,
    min_score: float | None = None,
) -> Budget:
    """Return the budget that the options ask for."""
    return Budget(flops, params, latency, latency_ms, speedup, min_score)
