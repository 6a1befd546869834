"""The comparison: every rival at its best ranks, at equal budgets, in one table."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from baselines.allocations import ALLOCATIONS
from baselines.contenders import Contender
from baselines.entrants import RIVALS, Field, rules_of
from baselines.judge import Clock, Judge
from baselines.rows import COLUMNS, Rows
from sekron.budget import RESOURCES, Budget, must_be_budget
from sekron.columns import returns_columns
from sekron.decomposition.metric import Metric
from sekron.forward.batches import Batches
from sekron.forward.evaluation import Score, inputs_of, said
from sekron.forward.inputs import Inputs, example_of
from sekron.network.opening import opened
from sekron.network.plan import Plan
from sekron.network.surgery import check_finite
from sekron.profiling.profile import profile
from sekron.profiling.selection import Selection
from sekron.progress import bar
from sekron.rank_curves.table import CandidateTable
from sekron.scalars import number


@returns_columns(*COLUMNS)
def compare(
    model: nn.Module,
    example_input: Inputs,
    budget: Budget | Sequence[Budget],
    *,
    methods: Sequence[str] | None = None,
    allocations: Sequence[str] = tuple(ALLOCATIONS),
    tables: Mapping[str, Mapping[str, CandidateTable]] | None = None,
    plans: Mapping[str, Callable[[Budget], Plan]] | None = None,
    metric: Mapping[str, Metric] | None = None,
    score: Score | None = None,
    calibration: Batches | None = None,
    repair: bool = False,
    clock: Clock | None = None,
    include: Selection | None = None,
    exclude: Selection | None = None,
    max_seconds: float = 600.0,
    output: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Compress a network in every way at the same budgets, and put the results side by side.

    Every method brings candidates for each layer, the dense layer always among them, and each
    allocation chooses one per layer within the budget. Tucker-2 also gets its ranks by
    variational Bayes, scaled to the budget, and the activation SVD by its paper's rule,
    `lagrangian`.

    With a metric every method takes part twice, the second time as `cp in metric`, say: weights
    are whitened, decomposed, and the whitening is taken out of the factors; errors are weighed as
    in a calibrated search. So what a structure gives and what the metric gives are told apart.

    Args:
        model: A trained network; not modified.
        example_input: What its forward takes: a tensor `(batch, …)`, a tuple of positional or a
            mapping of keyword arguments.
        budget: One budget of FLOPs and parameters, or several.
        methods: Names from `METHODS`, each also with ` in metric` behind it, `activation_svd` and
            `pruning`; default all that have what they need: `metric`, for `activation_svd`
            `calibration`, for `pruning` Torch-Pruning.
        allocations: Names from `ALLOCATIONS`.
        tables: Name -> candidates of every layer, such as `{"sekron": result.tables}`, which
            take part like those of the methods.
        plans: Name -> what makes a plan for a budget, such as `{"sekron": result.plan}`.
        metric: Layer name -> metric, such as `result.metrics` of a calibrated search.
        score: Rates a network, higher is better.
        calibration: Unlabelled batches for `recalibrate`; the score is then taken again. The
            activation SVD sees them too.
        repair: Whether to repair, on the same batches, the network of each budget and method whose
            score after `recalibrate` is the highest, and to take its score a third time. A repair
            takes a minute and more; what is pruned cannot be repaired.
        clock: From the dense and another network to the other's milliseconds and its speed-up.
        include: Patterns of the layers to compress, as in a search.
        exclude: Patterns of the layers to leave dense.
        max_seconds: Time for the candidates of one method.
        output: CSV file to which every row is added once it is finished. Rows that it has of the
            same network, measured in the same way, are not computed again. A score and a clock
            are known by their names, and by what is in their attribute `setting` if they have
            one: with one that was changed take another file.
        progress: Whether to show a progress bar on stderr.

    Returns:
        The columns below: error in the plain norm and error_in_metric, in the metric, of every
        row; seconds for the candidates of all budgets, the choice, and the factors that no row
        before computed. What was not measured is NaN; so is everything where a method does not
        reach a budget. Of a rival that fails there are the rows up to there, and a warning. When
        the comparison is interrupted, the rows that are finished are returned.

    Raises:
        ValueError: If a name is unknown or there twice, a method, `repair` or `metric` lacks what
            it needs, `tables` are of other layers or of a calibrated search, a budget limits
            latency or nothing, there is no such limit of time, no such folder for `output` or
            nothing to compress, or a weight is not finite.
        TypeError: If a budget is no `Budget`.
    """
    budgets = list(budget) if isinstance(budget, Sequence) else [budget]
    plans, tables = plans or {}, tables or {}
    _check(budgets, methods or (), allocations)
    max_seconds = number("max_seconds", max_seconds)
    if not max_seconds >= 0:
        raise ValueError(f"`max_seconds` must be at least 0, got {max_seconds}.")
    if repair and (score is None or calibration is None):
        raise ValueError("`repair` must come with `score` and `calibration`; give both.")
    batches = None
    if calibration is not None:
        example = example_of(example_input, model)
        batches = list(inputs_of(calibration, model, "`calibration`", example))
    measured = profile(model, example_input, include, exclude)
    if not (measured.flops and measured.params):
        raise ValueError("the network must have weights to compress, but has no cost at all.")
    check_finite(model, [layer.name for layer in measured.searched])
    network = opened(model, [layer.name for layer in measured.searched])
    field = Field(network, example_input, measured, metric, batches, max_seconds)
    names = field.rivals() if methods is None else list(methods)
    _check_names([*plans, *tables, *names], output)
    if lacking := [f"{name!r} {field.lack(name)}" for name in names if field.lack(name)]:
        raise ValueError(f"{lacking[0]}.")
    judge = Judge(model, measured, metric, score, batches, repair, clock)
    fingerprint = judge.fingerprint(example_input, max_seconds)
    rows = Rows(None if output is None else Path(output), fingerprint)
    makers: dict[str, Callable[[], Contender]] = {
        **{name: field.planned(plan) for name, plan in plans.items()},
        **{name: field.searched(name, own) for name, own in tables.items()},
        **{name: partial(field.rival, name) for name in names},
    }
    rules = {name: ("plan",) if name in plans else rules_of(name, allocations) for name in makers}
    jobs = {name: [(b, rule) for b in budgets for rule in rules[name]] for name in makers}
    # Another search may have made them.
    rows.forget(list(map(str, budgets)), [*plans, *tables])
    try:
        _run(makers, jobs, rows, judge, frozenset(names), progress)
    except KeyboardInterrupt:
        warnings.warn(
            f"the comparison was interrupted; {len(rows.frame())} rows are finished.", stacklevel=2
        )
    return rows.frame()


def _run(
    makers: Mapping[str, Callable[[], Contender]],
    jobs: Mapping[str, list[tuple[Budget, str]]],
    rows: Rows,
    judge: Judge,
    rivals: Collection[str],
    progress: bool,
) -> None:
    """Add the rows that are not there yet, also where a rival fails."""
    failures = []
    with bar(progress) as shown:
        task = shown.add_task("", total=sum(map(len, jobs.values())))
        for name, pairs in jobs.items():
            missing = [pair for pair in pairs if (str(pair[0]), name, pair[1]) not in rows]
            shown.update(task, description=name, advance=len(pairs) - len(missing))
            if not missing:
                continue
            try:
                for row in _rows_of(makers[name], judge, missing):
                    rows.add({**row, "method": name})
                    shown.advance(task)
            except _Failed as failure:
                if name not in rivals:
                    raise failure.error from failure.error.__cause__
                failures.append(failure.error)
                warnings.warn(
                    f"{name!r} failed, and is compared as far as it came: {said(failure.error)}",
                    stacklevel=3,
                )
    if failures and rows.frame().empty:
        raise failures[0]


class _Failed(Exception):
    """Raised where a contender, rather than what it is judged by, raises an error."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the packages that it is made with
        raise _Failed(error) from error


def _rows_of(
    make: Callable[[], Contender], judge: Judge, missing: Sequence[tuple[Budget, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows of one contender."""
    start = time.perf_counter()
    with _failing():
        contender = make()
    preparation = time.perf_counter() - start
    for budget, group in groupby(missing, key=itemgetter(0)):
        for row in _made(contender, judge, budget, [rule for _, rule in group]):
            yield {**row, "seconds": preparation + row["seconds"]}


def _made(
    contender: Contender, judge: Judge, budget: Budget, rules: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row per rule once it is finished; where the best one is repaired, all at the end."""
    made = []
    for rule in rules:
        start = time.perf_counter()
        with _failing():
            entry = contender.enter(budget, rule)
        seconds = time.perf_counter() - start
        row = {"budget": str(budget), "ranks_by": rule, **judge.row(entry), "seconds": seconds}
        made.append((row, entry))
        if not judge.repairs:
            yield row
    if judge.repairs:
        judge.repair_best(made)
        yield from (row for row, _ in made)


def _check_names(names: list[str], output: str | Path | None) -> None:
    doubles = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubles:
        raise ValueError(f"what is compared must have different names, got {doubles[0]!r} twice.")
    if output is not None and not Path(output).parent.is_dir():
        raise ValueError(f"`output` must be in a folder that exists, got {output}.")


def _check(budgets: list[Budget], methods: Sequence[str], allocations: Sequence[str]) -> None:
    for budget in budgets:
        must_be_budget(budget)
        if not budget.is_static or all(getattr(budget, name) is None for name in RESOURCES):
            raise ValueError(
                f"a comparison needs budgets of {' or '.join(RESOURCES)} alone, got {budget}."
            )
    arguments = {
        "methods": (methods, RIVALS),
        "allocations": (allocations, ALLOCATIONS),
    }
    for argument, (names, choices) in arguments.items():
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise ValueError(
                f"`{argument}` must be some of {', '.join(choices)}, got {unknown[0]!r}."
            )
