"""The comparison: every rival at its best ranks, at equal budgets, in one table."""

from __future__ import annotations

import hashlib
import importlib.util
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from baselines.allocations import ALLOCATIONS
from baselines.contenders import VBMF, Contender, Decomposed, Entry, Planned, Pruned
from baselines.layer_candidates import candidates
from baselines.methods import METHODS, Method, truncate
from baselines.rows import COLUMNS, Row, Rows
from sekron.budget import RESOURCES, Budget
from sekron.forward import Score
from sekron.network.plan import Plan
from sekron.network.surgery import check_finite
from sekron.profiling.network_profile import NetworkProfile
from sekron.profiling.profile import Inputs, first_image, profile
from sekron.profiling.selection import Selection
from sekron.progress import bar
from sekron.rank_curves.table import CandidateTable
from sekron.training.batch_norm import recalibrate

PRUNING = "pruning"
Clock = Callable[[nn.Module, nn.Module], tuple[float, float]]


def compare(
    model: nn.Module,
    example_input: Inputs,
    budget: Budget | Sequence[Budget],
    *,
    methods: Sequence[str] | None = None,
    allocations: Sequence[str] = tuple(ALLOCATIONS),
    tables: Mapping[str, Mapping[str, CandidateTable]] | None = None,
    plans: Mapping[str, Callable[[Budget], Plan]] | None = None,
    score: Score | None = None,
    calibration: Sequence[Tensor] | None = None,
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
    variational Bayes, scaled to the budget.

    Args:
        model: A trained network; not modified.
        example_input: What its forward takes; a tensor `(batch, …)` or a tuple of arguments.
        budget: One budget of FLOPs and parameters, or several.
        methods: Names from `METHODS`, and `pruning`; default all, pruning where Torch-Pruning
            is installed.
        allocations: Names from `ALLOCATIONS`.
        tables: Name -> candidates of every layer, such as `{"sekron": result.tables}`, which
            take part like those of the methods.
        plans: Name -> what makes a plan for a budget, such as `{"sekron": result.plan}`.
        score: Rates a network, higher is better.
        calibration: Unlabelled batches for `recalibrate`; the score is then taken again.
        clock: From the dense and another network to the other's milliseconds and its speed-up.
        include: Patterns of the layers to compress, as in a search.
        exclude: Patterns of the layers to leave dense.
        max_seconds: Time for the candidates of one method.
        output: CSV file to which every row is added once it is finished. Rows that it has of the
            same network, measured in the same way, are not computed again.
        progress: Whether to show a progress bar on stderr.

    Returns:
        Columns budget, method, ranks_by, error (sum of the squared relative errors of the
        layers), flops, flops_ratio, params, params_ratio, latency_ms, speedup, score,
        score_recalibrated, seconds (for the candidates of all budgets, the choice, and the
        factors that no row before computed). What was not measured is NaN; so is everything
        where a method does not reach a budget. When the comparison is interrupted, the rows that
        are finished are returned.

    Raises:
        ValueError: If a name is unknown, a budget limits latency or nothing, or a weight is not
            finite.
    """
    budgets = [budget] if isinstance(budget, Budget) else list(budget)
    if methods is None:
        methods = [*METHODS, *([PRUNING] if importlib.util.find_spec("torch_pruning") else [])]
    _check(budgets, methods, allocations)
    _check_names([*(plans or {}), *(tables or {}), *methods], output)
    measured = profile(model, example_input, include, exclude)
    check_finite(model, [layer.name for layer in measured.searched])
    judge = _Judge(model, measured, score, calibration, clock)
    fingerprint = _fingerprint(model, example_input, score, calibration, clock, max_seconds)
    rows = Rows(None if output is None else Path(output), fingerprint)
    layers = [layer.name for layer in measured.searched]
    makers: dict[str, Callable[[], Contender]] = {}
    for name, plan in (plans or {}).items():
        makers[name] = partial(Planned, model, measured, plan)
    for name, layer_tables in (tables or {}).items():
        if list(layer_tables) != layers or any(table.power != 2 for table in layer_tables.values()):
            raise ValueError(
                f"the tables of {name!r} must be of the layers that are compared, "
                f"{', '.join(layers)}, and without a calibration, got {', '.join(layer_tables)}; "
                "give the `include` and `exclude` of their search, or its `plans`."
            )
        makers[name] = partial(Decomposed, model, measured, layer_tables, truncate)
    for name in methods:
        if name == PRUNING:
            makers[name] = partial(Pruned, model, example_input, measured)
        else:
            makers[name] = partial(_fitted, model, measured, METHODS[name], max_seconds)
    jobs = {
        name: [(b, rule) for b in budgets for rule in _rules(name, plans or {}, allocations)]
        for name in makers
    }
    rows.forget([*(plans or {}), *(tables or {})])  # another search may have made them
    try:
        _run(makers, jobs, rows, judge, progress)
    except KeyboardInterrupt:
        warnings.warn(
            f"the comparison was interrupted; {len(rows.frame())} rows are finished.", stacklevel=2
        )
    return rows.frame()


def _run(
    makers: Mapping[str, Callable[[], Contender]],
    jobs: Mapping[str, list[tuple[Budget, str]]],
    rows: Rows,
    judge: _Judge,
    progress: bool,
) -> None:
    """Add the rows that are not there yet."""
    with bar(progress) as shown:
        task = shown.add_task("", total=sum(map(len, jobs.values())))
        for name, pairs in jobs.items():
            missing = [pair for pair in pairs if (str(pair[0]), name, pair[1]) not in rows]
            shown.update(task, description=name, advance=len(pairs) - len(missing))
            if not missing:
                continue
            start = time.perf_counter()
            contender = makers[name]()
            preparation = time.perf_counter() - start
            for budget, rule in missing:
                start = time.perf_counter()
                entry = contender.enter(budget, rule)
                seconds = preparation + time.perf_counter() - start
                head = {"budget": str(budget), "method": name, "ranks_by": rule}
                rows.add({**head, **judge.row(entry), "seconds": seconds})
                shown.advance(task)


def _fitted(
    model: nn.Module, measured: NetworkProfile, method: Method, max_seconds: float
) -> Contender:
    tables = candidates(model, measured, method, max_seconds=max_seconds)
    return Decomposed(model, measured, tables, method.factorize)


@dataclass(frozen=True, slots=True)
class _Judge:
    """The measurements that fill a row of the table."""

    model: nn.Module
    profile: NetworkProfile
    score: Score | None
    calibration: Sequence[Tensor] | None
    clock: Clock | None

    def row(self, entry: Entry | None) -> Row:
        """Return error, costs, latency and scores; the network's batch norm is re-estimated."""
        row: Row = dict.fromkeys(COLUMNS[3:-1], np.nan)
        if entry is None:
            return row
        row["error"] = entry.error
        for resource in RESOURCES:
            row[resource] = entry.used[resource]
            row[f"{resource}_ratio"] = entry.used[resource] / self.profile.dense(resource)
        if self.clock is not None:
            row["latency_ms"], row["speedup"] = self.clock(self.model, entry.network)
        if self.score is not None:
            row["score"] = self.score(entry.network)
            if self.calibration is not None:
                recalibrate(entry.network, self.calibration)
                row["score_recalibrated"] = self.score(entry.network)
        return row


def _fingerprint(
    model: nn.Module,
    example_input: Inputs,
    score: Score | None,
    calibration: Sequence[Tensor] | None,
    clock: Clock | None,
    max_seconds: float,
) -> str:
    """Return a digest of what rows depend on: the network, the input's shape, what is measured."""
    shapes = [tuple(a.shape) for a in first_image(example_input) if isinstance(a, Tensor)]
    flags = [value is not None for value in (score, calibration, clock)]
    digest = hashlib.sha256(f"{shapes} {flags} {max_seconds}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _rules(method: str, plans: Container[str], allocations: Sequence[str]) -> tuple[str, ...]:
    if method in plans:
        return ("plan",)
    if method == PRUNING:
        return ("magnitude",)
    return (*allocations, VBMF) if method == "tucker2" else tuple(allocations)


def _check_names(names: list[str], output: str | Path | None) -> None:
    doubles = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if doubles:
        raise ValueError(f"what is compared must have different names, got {doubles[0]!r} twice.")
    if output is not None and not Path(output).parent.is_dir():
        raise ValueError(f"`output` must be in a folder that exists, got {output}.")
    if PRUNING in names and not importlib.util.find_spec("torch_pruning"):
        raise ValueError("`pruning` needs Torch-Pruning: pip install 'sekron[compare]'.")


def _check(budgets: list[Budget], methods: Sequence[str], allocations: Sequence[str]) -> None:
    for budget in budgets:
        if not budget.is_static or all(getattr(budget, name) is None for name in RESOURCES):
            raise ValueError(
                f"a comparison needs budgets of {' or '.join(RESOURCES)} alone, got {budget}."
            )
    arguments = {
        "methods": (methods, (*METHODS, PRUNING)),
        "allocations": (allocations, ALLOCATIONS),
    }
    for argument, (names, choices) in arguments.items():
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise ValueError(
                f"`{argument}` must be some of {', '.join(choices)}, got {unknown[0]!r}."
            )
