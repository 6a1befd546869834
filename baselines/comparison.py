"""The comparison: every rival at its best ranks, at equal budgets, in one table."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor, nn

from baselines.allocations import ALLOCATIONS
from baselines.candidates import candidates
from baselines.contenders import VBMF, Contender, Decomposed, Entry, Planned, Pruned
from baselines.methods import METHODS, Method, truncate
from sekron.budget import RESOURCES, Budget
from sekron.calibration import recalibrate
from sekron.plan import Plan
from sekron.profiling import Inputs, NetworkProfile, profile
from sekron.progress import bar
from sekron.surgery import check_finite
from sekron.table import CandidateTable

PRUNING = "pruning"
MEASURED = ("latency_ms", "speedup", "score", "score_recalibrated")
COLUMNS = (
    *("budget", "method", "ranks_by", "error"),
    *(name for resource in RESOURCES for name in (resource, f"{resource}_ratio")),
    *(*MEASURED, "seconds"),
)

Row = dict[str, object]
Score = Callable[[nn.Module], float]
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
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
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
        budget: One or several, of FLOPs and parameters.
        methods: Names from `METHODS`, and `pruning`; default all, pruning where Torch-Pruning
            is installed.
        allocations: Names from `ALLOCATIONS`.
        tables: Name -> candidates of every layer, such as `{"sekron": result.tables}`, which
            take part like those of the methods.
        plans: Name -> what makes a plan for a budget, such as `{"sekron": result.plan}`.
        score: Of a network, higher is better.
        calibration: Unlabelled batches for `recalibrate`; the score is then taken again.
        clock: From the dense and another network to the other's milliseconds and its speed-up.
        include: Patterns of the layers to compress, as in a search.
        exclude: Patterns of the layers to leave dense.
        max_seconds: For the candidates of one method.
        output: CSV file to which every row is added once it is finished. Rows that it has are
            not computed again, so it belongs to one network.
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
    measured = profile(model, example_input, include, exclude)
    check_finite(model, [layer.name for layer in measured.searched])
    judge = _Judge(model, measured, score, calibration, clock)
    rows = _Rows(None if output is None else Path(output))
    layers = [layer.name for layer in measured.searched]
    makers: dict[str, Callable[[], Contender]] = {}
    for name, plan in (plans or {}).items():
        makers[name] = partial(Planned, model, measured, plan)
    for name, given in (tables or {}).items():
        if list(given) != layers:
            raise ValueError(
                f"the tables of {name!r} must be of the layers that are compared, "
                f"{', '.join(layers)}, got {', '.join(given)}; give the `include` and `exclude` "
                "of their search."
            )
        makers[name] = partial(Decomposed, model, measured, given, truncate)
    for name in methods:
        if name == PRUNING:
            makers[name] = partial(Pruned, model, example_input, measured)
        else:
            makers[name] = partial(_fitted, model, measured, METHODS[name], max_seconds)
    wanted = {
        name: [(b, rule) for b in budgets for rule in _rules(name, plans or {}, allocations)]
        for name in makers
    }
    try:
        _run(makers, wanted, rows, judge, progress)
    except KeyboardInterrupt:
        warnings.warn(
            f"the comparison was interrupted; {len(rows.frame())} rows are finished.", stacklevel=2
        )
    return rows.frame()


def _run(
    makers: Mapping[str, Callable[[], Contender]],
    wanted: Mapping[str, list[tuple[Budget, str]]],
    rows: _Rows,
    judge: _Judge,
    progress: bool,
) -> None:
    """Add the rows that are not there yet."""
    with bar(progress) as shown:
        task = shown.add_task("", total=sum(map(len, wanted.values())))
        for name, pairs in wanted.items():
            todo = [pair for pair in pairs if (str(pair[0]), name, pair[1]) not in rows]
            shown.update(task, description=name, advance=len(pairs) - len(todo))
            if not todo:
                continue
            start = time.perf_counter()
            contender = makers[name]()
            prepared = time.perf_counter() - start
            for budget, rule in todo:
                start = time.perf_counter()
                entry = contender.enter(budget, rule)
                seconds = prepared + time.perf_counter() - start
                head = {"budget": str(budget), "method": name, "ranks_by": rule}
                rows.add({**head, **judge.row(entry), "seconds": seconds})
                shown.advance(task)


def _fitted(
    model: nn.Module, measured: NetworkProfile, method: Method, max_seconds: float
) -> Contender:
    found = candidates(model, measured, method, max_seconds=max_seconds)
    return Decomposed(model, measured, found, method.factorize)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Fills a row with all that is measured of a network."""

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


class _Rows:
    """The rows of a comparison, each on disk as soon as it is finished.

    Args:
        path: Of a CSV file, perhaps of an earlier comparison; None keeps them in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: list[Row] = []
        if path is not None and path.exists() and _whole_lines(path):
            frame = pd.read_csv(path)
            if tuple(frame.columns) != COLUMNS:
                raise ValueError(
                    f"{path} must be a comparison with the columns {', '.join(COLUMNS)}, got "
                    f"{', '.join(map(str, frame.columns))}; name another file."
                )
            self._rows = [dict(zip(COLUMNS, row, strict=True)) for row in frame.itertuples(False)]

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        return any((row["budget"], row["method"], row["ranks_by"]) == key for row in self._rows)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self._rows.append({name: row[name] for name in COLUMNS})
        if self._path is not None:
            line = pd.DataFrame(self._rows[-1:])
            is_new = not self._path.exists() or self._path.stat().st_size == 0
            line.to_csv(self._path, mode="a", header=is_new, index=False)

    def frame(self) -> pd.DataFrame:
        """Return all rows."""
        return pd.DataFrame(self._rows, columns=list(COLUMNS))


def _whole_lines(path: Path) -> str:
    """Return the text of a file, after what a kill left of its last line was cut off."""
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return whole


def _rules(method: str, plans: Container[str], allocations: Sequence[str]) -> tuple[str, ...]:
    if method in plans:
        return ("plan",)
    if method == PRUNING:
        return ("magnitude",)
    return (*allocations, VBMF) if method == "tucker2" else tuple(allocations)


def _check(budgets: list[Budget], methods: Sequence[str], allocations: Sequence[str]) -> None:
    for budget in budgets:
        if budget.is_clocked or all(getattr(budget, name) is None for name in RESOURCES):
            raise ValueError(
                f"a comparison needs budgets of {' or '.join(RESOURCES)} alone, got {budget}."
            )
    known = {"methods": (methods, (*METHODS, PRUNING)), "allocations": (allocations, ALLOCATIONS)}
    for argument, (names, choices) in known.items():
        unknown = [name for name in names if name not in choices]
        if unknown:
            raise ValueError(
                f"`{argument}` must be some of {', '.join(choices)}, got {unknown[0]!r}."
            )
