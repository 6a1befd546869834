"""`sekron report`: a run as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli.arguments import Json, NamedModel, Run, Storage, Timed, Weights, check_with
from search.cli.output import note, print_json, say
from search.cli.results import compared
from search.folder.run_folder import RunFolder
from search.pipeline.load import load_so_far
from search.report.page import Report, check_installed
from search.report.rivals import read_rivals
from sekron.budget import Budget
from sekron.records import check_folder


def report(
    run: Run,
    output: Annotated[str, typer.Option(help="File to write; default report.html in RUN.")] = "",
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare with rivals first, as `sekron compare`.")
    ] = False,
    model: NamedModel = "",
    weights: Weights = "",
    storage: Storage = None,
    runtime: Timed = "",
    as_json: Json = False,
) -> None:
    """Write one HTML page that shows a run, finished or not; it opens without a network."""
    check_with("--compare", compare, model=model, weights=weights)
    path = Path(output or Path(run) / "report.html")
    if compare:
        check_folder(path)  # before minutes of comparison
        check_installed()
        compared(run, model, weights, budget=Budget(), storage=storage, runtime=runtime)
    record = RunFolder(run).read()
    result, lacks = load_so_far(run, storage)
    result = result.in_runtime(runtime) if runtime else result
    rivals = read_rivals(run, runtime or record.settings.runtime)
    Report(run, record, result, lacks, rivals).write(path)
    if lacks:
        note(f"the search in {run} is not finished ({lacks[0]}), and the page says so.")
    if as_json:
        print_json({"report": str(path), "lacks": lacks})
    else:
        say(f"report: {path}")
