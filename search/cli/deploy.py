"""`sekron export` and `sekron verify`: a compressed network where it is used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Annotated

import pandas as pd
import typer
from torch import nn

from search.cli.arguments import Inputs, Json, check_with, example_of, source_of
from search.cli.output import complain, print_frame, print_json, say
from search.cli.sources import load_model
from search.verification.verify import Finding
from search.verification.verify import verify as check_network
from sekron.export.difference import TOLERANCE
from sekron.export.files import Exported, export_onnx, export_openvino, export_program
from sekron.export.onnx_graph import OPSET
from sekron.forward.inputs import Arguments
from sekron.network.checkpoint import load

Small = Annotated[str, typer.Argument(help="File of a compressed network, as `apply` writes it.")]
DenseModel = Annotated[str, typer.Option("--model", help="module:attribute of the dense network.")]
FAILED = 1
"""Exit code where something does not work that works for the dense network, or nothing does."""


def export(
    small: Small,
    model: DenseModel,
    inputs: Inputs,
    onnx: Annotated[str, typer.Option(help="ONNX file to write.")] = "",
    openvino: Annotated[str, typer.Option(help="OpenVINO IR to write, an .xml file.")] = "",
    pt2: Annotated[str, typer.Option(help="Program of torch.export to write, a .pt2 file.")] = "",
    opset: Annotated[
        int | None, typer.Option(help=f"Version of ONNX's operators; default {OPSET}.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of the outputs, relative to the largest.")
    ] = TOLERANCE,
    as_json: Json = False,
) -> None:
    """Write a compressed network for other runtimes, each file compared with torch in its own."""
    if not (onnx or openvino or pt2):
        raise ValueError("a file must be named to write: --onnx, --openvino or --pt2.")
    check_with("--onnx", bool(onnx), opset=opset is not None)
    opset = OPSET if opset is None else opset
    example, _, network = _opened(small, model, inputs)
    kinds: dict[str, tuple[str, Callable[..., Exported]]] = {
        f"ONNX opset {opset}": (onnx, partial(export_onnx, opset=opset)),
        "OpenVINO IR": (openvino, export_openvino),
        "torch.export": (pt2, export_program),
    }
    files = {}
    for kind, (path, write) in kinds.items():
        if path:
            files[kind] = write(network, example, path, tolerance=tolerance)
            if not as_json:  # at once: the next may fail
                _say_file(files[kind], kind)
    if as_json:
        print_json([{"kind": kind, **asdict(file)} for kind, file in files.items()])


def verify(
    small: Small,
    model: DenseModel,
    inputs: Inputs,
    as_json: Json = False,
    measure_seconds: Annotated[
        float, typer.Option(help="Limit for each check's clock; at 0 nothing is timed.")
    ] = 2.0,
) -> None:
    """Use a compressed network in every way that the dense one is used in, each for real.

    The exit code is 1 if something does not work that works for the dense network, or if nothing
    works at all.
    """
    example, dense, network = _opened(small, model, inputs)
    findings = check_network(network, dense, example, measure_seconds=measure_seconds)
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    statuses = {finding.status for finding in findings}
    if statuses == {"skipped"}:
        complain(
            "nothing was verified: none of the checks works for the dense network; mend that, or "
            "name another --model or --input."
        )
    if "fails" in statuses or "works" not in statuses:
        raise typer.Exit(FAILED)


def _opened(small: str, model: str, inputs: Inputs) -> tuple[Arguments, nn.Module, nn.Module]:
    """Return what the networks are run on, the dense and the compressed one."""
    example = example_of(source_of(model, "", inputs))
    dense = load_model(model)
    return example, dense, load(dense, small).eval()


def _say_file(file: Exported, kind: str) -> None:
    def told(shapes: dict[str, tuple[int | str, ...]]) -> str:
        return ", ".join(f"{name} ({', '.join(map(str, s))})" for name, s in shapes.items())

    say(
        f"{file.path}: {kind}, {told(dict(file.inputs))} -> {told(dict(file.outputs))}; largest "
        f"relative difference to torch {file.difference:.1e}"
    )


def _print(findings: list[Finding]) -> None:
    frame = pd.DataFrame([asdict(finding) for finding in findings])
    for column in ("difference", "dense_difference", "time_over_dense"):
        form = "{:.2f}" if column == "time_over_dense" else "{:.1e}"
        frame[column] = ["" if pd.isna(value) else form.format(value) for value in frame[column]]
    reasons = frame.pop("reason")
    print_frame(frame)
    for check, reason in zip(frame["check"], reasons, strict=True):
        if reason:
            say(f"{check}: {reason}")
