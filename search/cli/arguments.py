"""What several commands take."""

from typing import Annotated

import typer

from search.cli.sources import parse_limit
from sekron.budget import Budget

Model = Annotated[str, typer.Argument(help="module:attribute of a model or a function")]
Run = Annotated[str, typer.Argument(help="Run folder of a search.")]
Weights = Annotated[str, typer.Option(help="State dict: .safetensors, or a torch file.")]
Input = Annotated[str, typer.Option("--input", help="Input shape, such as 1x3x224x224.")]
Limit = Annotated[str | None, typer.Option(help="Share ('50%', '0.5') or number ('900000').")]
Latency = Annotated[str | None, typer.Option(help="Share of the dense time ('60%', '0.6').")]
Milliseconds = Annotated[float | None, typer.Option(help="Time of a forward pass.")]
Speedup = Annotated[float | None, typer.Option(help="Dense time over that of the plan.")]
MinScore = Annotated[float | None, typer.Option(help="Least score; the fewest FLOPs with it.")]
Patterns = Annotated[list[str] | None, typer.Option(help="Pattern of layer names; repeatable.")]

MinShare = Annotated[
    float, typer.Option(help="Share of FLOPs or parameters that makes a layer worth it.")
]


def budget_of(
    flops: str | None,
    params: str | None,
    latency: str | None = None,
    latency_ms: float | None = None,
    speedup: float | None = None,
    min_score: float | None = None,
) -> Budget:
    """Return the budget that the options ask for."""
    return Budget(
        flops=parse_limit(flops),
        params=parse_limit(params),
        latency=parse_limit(latency),
        latency_ms=latency_ms,
        speedup=speedup,
        min_score=min_score,
    )
