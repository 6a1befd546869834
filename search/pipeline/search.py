"""A search, stage by stage: profile, metrics, candidates, latencies, plans, result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import optuna
from optuna.storages import BaseStorage
from rich.console import Console

from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import TimeLimit
from search.folder.recorder import Recorder
from search.folder.settings import Settings
from search.folder.storage import told
from search.front.choices import Choices
from search.front.result import SearchResult
from search.per_layer.identity import weight_digests
from search.pipeline.calibrate import metrics_for
from search.pipeline.feasibility import check_feasible
from search.pipeline.plans import begin_clock, judge_of, plan_by_score, plan_on_clock
from search.pipeline.request import Request
from search.pipeline.stages import profile_network, search_candidates, spaces_of
from search.whole_network.judge import Judge
from search.whole_network.plan_clock import PlanClock
from search.whole_network.trials import Trials
from search.workers.claims import Claims, joined
from sekron.budget import Budget
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.spreadsheet import as_csv

DENSE_SCORE, OUTCOME = "score of the dense network", "outcome"
"""What workers note of a search as a whole."""


def search_network(
    request: Request,
    recorder: Recorder,
    warn: Callable[[str], None],
    stopwatch_of: Callable[..., Stopwatch] = Stopwatch,
    now: Callable[[], float] = time.perf_counter,
    on_begin: Callable[[], None] = lambda: None,
) -> SearchResult:
    """Run a search.

    Args:
        request: What is searched.
        recorder: Is told what is found, and tells what was found before.
        warn: Called with what the user should know of the result.
        stopwatch_of: From model, example input and profile to what measures.
        now: Returns the seconds by which its time is limited.
        on_begin: Called once other workers may join.

    Raises:
        InfeasibleBudget: As `search.run` does.
        ValueError: As `search.run` does.
    """
    settings = request.settings
    # What can be refused is refused before anything is computed or written.
    profile = profile_network(request)
    spaces = spaces_of(profile, settings)
    check_feasible(request.budget, profile, spaces, settings.rank_multiple)
    digests = weight_digests(request.model, profile)
    recorder.check(settings, profile, digests)
    recorded = recorder.metric()
    judge = judge_of(request, recorder, recorder.scores(recorded or NetworkMetric()), warn)
    stopwatch, timetable = None, None
    limit = TimeLimit(request.measure_seconds, now)
    if request.measure_seconds > 0:
        stopwatch = stopwatch_of(request.model, request.example_input, profile)
        times = recorder.timetable(recorded or NetworkMetric())
        timetable = begin_clock(request, stopwatch, limit, profile, times, warn)

    metrics = metrics_for(request, profile, recorded, warn)
    storage = recorder.trials(request.storage)
    alone = joined(storage, settings.name, is_alone=True)
    with quiet_optuna(), told(request.storage), alone as claims:
        recorder.begin(settings, profile, digests, metrics)
        if judge is not None:
            claims.note(DENSE_SCORE, judge.scores.dense)
        on_begin()
        tables = search_candidates(request, profile, digests, metrics, storage, claims)
        choices = Choices(profile, tables, metrics, timetable)
        trials = trials_of(settings, storage, claims)
        choices, best = _settled(request, choices, stopwatch, limit, judge, trials, recorder, warn)
        result = outcome(request, choices, best, judge, recorder)
        claims.note(OUTCOME)
    return result


def outcome(
    request: Request, choices: Choices, best: Plan, judge: Judge | None, recorder: Recorder
) -> SearchResult:
    """Return the result of a search, and record it."""
    scores = None if judge is None else judge.scores
    result = SearchResult(choices, request.budget, best, scores)
    front = result.pareto_front().drop(columns="plan")
    recorder.finish(as_csv(result.candidates()), as_csv(front), best)
    return result


def trials_of(settings: Settings, storage: BaseStorage, claims: Claims) -> Trials:
    """Return the trials of whole networks of a search."""
    return Trials(settings.n_network_trials, storage, settings.name, settings.seed, claims)


def _settled(
    request: Request,
    choices: Choices,
    stopwatch: Stopwatch | None,
    limit: TimeLimit,
    judge: Judge | None,
    trials: Trials,
    recorder: Recorder,
    warn: Callable[[str], None],
) -> tuple[Choices, Plan]:
    """Return the choices with all times, and the plan that is best: by error, clock and score."""
    clock = best = None
    with Console(stderr=True, quiet=not request.progress, markup=False).status("") as status:
        if stopwatch is not None and choices.timetable is not None:
            clock = PlanClock(
                stopwatch,
                choices.timetable,
                limit,
                recorder.keep_timetable,
                lambda what: status.update(f"measuring {what}"),
            )
            with limit.running():
                best = plan_on_clock(request, choices, clock, trials, warn)
            choices = choices.retimed(clock.timetable)
        if judge is not None:
            best = plan_by_score(
                request,
                choices,
                best,
                judge,
                clock,
                trials,
                lambda what: status.update(f"scoring {what}"),
                warn,
            )
        if clock is not None:
            choices = choices.retimed(clock.timetable)
            say = partial(status.console.print, soft_wrap=True, highlight=False)
            _tell(clock, request.budget, say, warn)
    return choices, choices.best(request.budget) if best is None else best


def _tell(
    clock: PlanClock, budget: Budget, say: Callable[[str], None], warn: Callable[[str], None]
) -> None:
    """Say what there was no time to measure, and warn where the time that was set is exceeded."""
    limit = clock.limit
    if clock.left_out:
        say(
            f"measured for {limit.spent:.1f} s of {limit.seconds:g} s; no time for "
            f"{clock.left_out}; raise `measure_seconds` to measure more."
        )
    if clock.is_late:
        warn(
            f"`measure_seconds` of {limit.seconds:g} did not suffice to measure the plan for "
            f"{budget}, which took {limit.spent:.1f} s with the fewest runs; raise it."
        )


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """One line per trial would drown the progress bar."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
