"""`sekron front`, `sekron apply` and `sekron compare`: what is made of a finished search."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import pandas as pd
import typer
from torch import nn

import baselines
from search.cli.answers import answers
from search.cli.arguments import (
    Calibration,
    Csv,
    Images,
    Json,
    LatencyShare,
    Limit,
    Milliseconds,
    NamedModel,
    Normalize,
    Run,
    Speedup,
    Storage,
    Timed,
    Weights,
    budget_of,
    check_form,
    example_of,
)
from search.cli.calibration import load_calibration
from search.cli.output import (
    note,
    note_uncounted,
    print_frame,
    print_front,
    print_json,
    rows_of,
    say,
)
from search.cli.rivals_clock import RivalsClock
from search.cli.sources import load_model
from search.cli.trust import model_of
from search.clock.setting import setting_of
from search.folder.run_folder import RunFolder
from search.folder.run_record import RunRecord
from search.front.beside import winner
from search.front.outcome import Outcome
from search.front.result import SearchResult
from search.per_layer.identity import weight_digests
from search.pipeline.load import check_best, load_searched, load_so_far
from search.report.rivals import comparison_of
from sekron.budget import RESOURCES, Budget, InfeasibleBudget
from sekron.network.checkpoint import save
from sekron.network.plan import Plan
from sekron.records import check_folder
from sekron.spreadsheet import as_csv

MOST_SECONDS = 600.0
"""For the candidates of each method that a run is compared with."""


def front(
    run: Run,
    csv: Csv = False,
    as_json: Json = False,
    storage: Storage = None,
    runtime: Timed = "",
) -> None:
    """Print the Pareto front of a search, finished or not."""
    check_form(csv, as_json)
    result, lacks = load_so_far(run, storage)
    result = result.in_runtime(runtime) if runtime else result
    if lacks:
        note(f"the search in {run} is not finished ({lacks[0]}); this is what is there.")
    if csv:
        answers().write(as_csv(result.pareto_front().drop(columns="plan")))
    elif as_json:
        asked, rows = str(result.budget), rows_of(result.pareto_front())
        clock = None if result.timetable is None else result.timetable.setting.runtime
        print_json({"budget": asked, "runtime": clock, "rows": rows, "lacks": lacks})
    else:
        print_front(result)


def apply(
    run: Run,
    output: Annotated[str, typer.Option(help="File to write: weights and plan.")],
    model: NamedModel = "",
    weights: Weights = "",
    flops: Limit = None,
    params: Limit = None,
    latency: LatencyShare = None,
    latency_ms: Milliseconds = None,
    speedup: Speedup = None,
    storage: Storage = None,
    digest: Annotated[
        str, typer.Option("--plan", help="Digest of a plan of the front, as a report tells it.")
    ] = "",
    runtime: Timed = "",
    as_json: Json = False,
) -> None:
    """Write the compressed network for the budget of the search, or for another one."""
    check_folder(output)  # before minutes of decomposition
    _, result, lacks, network = _opened(run, model, weights, storage)
    result = result.in_runtime(runtime) if runtime else result
    other = budget_of(flops, params, latency, latency_ms, speedup)
    if digest and other != Budget():
        raise ValueError("a plan must be named by --plan or by a budget, got both; give one.")
    is_own = _is_own(other, result)
    budget = result.budget if is_own else other
    wanted = f"plan {digest}" if digest else str(budget)
    if digest:
        plan = result.by_digest(digest)
    elif not is_own or (runtime and _has_no_winner(result)):
        plan = result.plan(budget)
    else:
        plan = _best(run, result, lacks)
    small = plan.apply(network)
    save(small, output)
    outcome = Outcome.of(result, plan)
    if as_json:
        print_json({"output": output, "wanted": wanted, **asdict(outcome)})
    else:
        say(f"{output}: {outcome}, for {wanted}")
    note_uncounted(result.profile.unsupported)


def compare(
    run: Run,
    model: NamedModel = "",
    weights: Weights = "",
    flops: Limit = None,
    params: Limit = None,
    max_seconds: Annotated[
        float, typer.Option(help="Limit for the candidates of each method.")
    ] = MOST_SECONDS,
    calibration: Calibration = "",
    normalize: Normalize = None,
    images: Images = None,
    csv: Csv = False,
    as_json: Json = False,
    storage: Storage = None,
    runtime: Timed = "",
) -> None:
    """Compare with TT, TR, CP, Tucker and others at the budget of the search, or at another one.

    Where the budget limits latency alone, the FLOPs of the plan that holds it are the budget. The
    rivals of a calibrated search are also decomposed in its metric, and put in its order. With
    `--calibration` activation_svd is compared too.
    """
    check_form(csv, as_json)
    budget, frame = compared(
        run,
        model,
        weights,
        budget=budget_of(flops, params),
        max_seconds=max_seconds,
        batches=(calibration, normalize, images),
        storage=storage,
        runtime=runtime,
    )
    if csv:
        answers().write(as_csv(frame))
    elif as_json:
        print_json({"budget": str(budget), "rows": rows_of(frame)})
    else:
        say(f"{budget}, least error first")
        print_frame(frame)


def compared(
    run: str,
    model: str,
    weights: str,
    *,
    budget: Budget,
    max_seconds: float = MOST_SECONDS,
    batches: tuple[str, Any, int | None] = ("", None, None),
    storage: str | None,
    runtime: str,
) -> tuple[Budget, pd.DataFrame]:
    """Compare a run with its rivals; return the budget of the rows, and the rows.

    Args:
        run: The folder.
        model: As for `model_of`.
        weights: File of the weights; empty for those of the search.
        budget: Where it limits nothing, that of the search.
        max_seconds: For the candidates of each method.
        batches: As for `load_calibration`.
        storage: URL, if the search has one.
        runtime: Whose clock counts; empty for that of the search. In another setting than the
            search's networks are not timed.
    """
    record, result, lacks, network = _opened(run, model, weights, storage)
    result = result.in_runtime(runtime) if runtime else result
    runtime = runtime or record.settings.runtime
    if not record.source.inputs:
        raise ValueError(
            f"{run} must say what its network takes, but does not: give the same `sekron search` "
            "again, or use `baselines.compare` where it was searched from Python."
        )
    is_own = _is_own(budget, result)
    if is_own:
        budget = Budget(flops=result.budget.flops, params=result.budget.params)
    if budget == Budget():
        best = _best(run, result, lacks)
        budget = Budget(flops=result.profile.totals(best)["flops"])
    example = example_of(record.source)

    clock, timetable = None, result.timetable
    if timetable is not None:
        try:
            difference = timetable.setting.difference(setting_of(network, example, runtime))
        except ImportError as error:
            difference = str(error)
        if difference:
            note(f"networks have no time: the search was timed in another setting ({difference}).")
        else:
            clock = RivalsClock(timetable, example)
    frame = baselines.compare(
        network,
        example,
        budget,
        plans={"sekron": (lambda _: result.best) if is_own and not lacks else result.plan},
        metric=result.metrics or None,
        calibration=load_calibration(batches[0], record.source.inputs, *batches[1:]),
        clock=clock,
        include=[layer.name for layer in result.profile.searched],
        max_seconds=max_seconds,
        output=comparison_of(run, runtime),
    )
    if clock is not None and clock.refused:
        note(f"networks have no time: {len(clock.refused)}, the first since {clock.refused[0]}")
    frame = frame[frame["budget"] == str(budget)]
    frame = frame.sort_values("error_in_metric" if result.metrics else "error")
    if frame["flops"].isna().all():
        raise InfeasibleBudget(f"the budget must be reachable, got {budget}; nothing reaches it.")
    return budget, frame.drop(columns=["budget", *RESOURCES]).dropna(axis="columns", how="all")


def _is_own(budget: Budget, result: SearchResult) -> bool:
    """Whether a budget is that of the search: it limits the same, or nothing."""
    return budget == Budget() or budget.digest == result.budget.digest


def _has_no_winner(result: SearchResult) -> bool:
    """Whether no search was for a budget on this clock; a least score was on another, then."""
    found = winner(result.choices, result.budget, result.scores)
    return found is None and result.budget.min_score is None


def _best(run: str, result: SearchResult, lacks: list[str]) -> Plan:
    """Return the best plan of a run; another runtime may have one where the search has none."""
    if winner(result.choices, result.budget, result.scores) is None:
        check_best(run, lacks)
    return result.best


def _opened(
    run: str, model: str, weights: str, storage: str | None
) -> tuple[RunRecord, SearchResult, list[str], nn.Module]:
    """Return a run's record, its result, what its best plan lacks, and what was searched."""
    folder = RunFolder(run)
    record = folder.read()
    network = load_model(model_of(run, record, model), weights or record.source.weights)
    folder.check_weights(weight_digests(network, record.profile))
    return record, *load_searched(run, storage), network
