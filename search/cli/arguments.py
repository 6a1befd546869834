"""What several commands take."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Annotated, Any, TypeVar

import torch
import typer

from search.cli.pictures import parse_normalization
from search.cli.sources import parse_limit
from search.folder.input_spec import InputSpec, arguments_for
from search.folder.settings import Source
from sekron.budget import Budget
from sekron.forward.inputs import Arguments

Value = TypeVar("Value")


def _parser(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """Return a parser whose error says what its function says, instead of the value alone."""

    def parsed(text: str) -> Value:
        try:
            return parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error

    return parsed


def _inputs_of(text: str) -> list[InputSpec]:
    return [InputSpec.parse(part) for part in text.split(",")]


_limit, _inputs = _parser(parse_limit), _parser(_inputs_of)
_normalization = _parser(parse_normalization)

Model = Annotated[str, typer.Argument(help="module:attribute of a model or a function")]
Storage = Annotated[str | None, typer.Option(help="Optuna storage URL.")]
Run = Annotated[str, typer.Argument(help="Run folder of a search.")]
NamedModel = Annotated[
    str, typer.Option("--model", help="module:attribute; default the one named here before.")
]
Weights = Annotated[str, typer.Option(help="State dict: .safetensors, or a torch file.")]
Inputs = Annotated[
    list[Any],
    typer.Option(
        "--input",
        parser=_inputs,
        metavar="INPUT",
        help="What forward takes: 1x3x224x224, or 1x3x224x224:channels_last, which eager torch "
        "often runs faster on a CPU; for several, repeated or with commas. "
        "'mask:1x128:bool' is a keyword argument that is all true; integers are 0 and 1, or in "
        "'ids:1x128:int64:30522' below 30522.",
    ),
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
Timed = Annotated[
    str,
    typer.Option("--runtime", help="Whose times count, of those timed in RUN; default the last."),
]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Calibration = Annotated[
    str,
    typer.Option(
        help="Unlabelled images: a folder of pictures, with --normalize, or a file with one tensor "
        "or, for several inputs, one for each by its name or number."
    ),
]
Normalize = Annotated[
    Any,
    typer.Option(
        parser=_normalization,
        metavar="NAME",
        help="How pictures are normalised: imagenet, clip, half (timm's 0.5), none (from 0 to 1), "
        "or mean and deviation: 0.13/0.31, 0.5,0.5,0.5/0.2,0.2,0.2.",
    ),
]
Images = Annotated[
    int | None,
    typer.Option(help="Most images taken of them, evenly spread; default 256 pictures."),
]
MinShare = Annotated[
    float, typer.Option(help="Share of FLOPs or parameters that makes a layer worth it.")
]


def source_of(model: str, weights: str, inputs: list[list[InputSpec]]) -> Source:
    """Return what is recorded of a network and of its `--input`.

    Raises:
        ValueError: If two inputs have one name.
    """
    return Source(model, weights, tuple(chain.from_iterable(inputs)))


def example_of(source: Source) -> Arguments:
    """Return what a network is run on, always the same."""
    generator = torch.Generator().manual_seed(0)
    return arguments_for(source.inputs, [spec.tensor(generator) for spec in source.inputs])


def check_form(csv: bool, as_json: bool) -> None:
    """Refuse two forms of one table.

    Raises:
        ValueError: If both are asked for.
    """
    if csv and as_json:
        raise ValueError("a table must be printed in one form, got --csv and --json; give one.")


def check_with(needed: str, is_given: bool, **options: object) -> None:
    """Refuse options that say nothing without another one.

    Args:
        needed: The other one, as the error names it.
        is_given: Whether it is given.
        options: Name with underscores -> value; what is false or None was not given.

    Raises:
        ValueError: If one of them is given without it.
    """
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value]
    if given and not is_given:
        raise ValueError(
            f"{' and '.join(given)} must come with {needed}, without which it says nothing; give "
            "both or neither."
        )


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
