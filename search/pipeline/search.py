"""A search, stage by stage: profile, metrics, candidates, latencies, plans, result."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import optuna
from optuna.storages import BaseStorage

from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import BEFORE_SCORES, TimeLimit
from search.folder.recorder import Recorder, timetables_beside
from search.folder.scores import Scores
from search.folder.settings import Settings
from search.folder.storage import told
from search.front.choices import Choices
from search.front.result import SearchResult
from search.per_layer.identity import weight_digests
from search.pipeline.calibrate import metrics_for
from search.pipeline.clock_notes import tell_doubt, tell_times
from search.pipeline.course import Course
from search.pipeline.elsewhere import time_elsewhere
from search.pipeline.feasibility import check_feasible
from search.pipeline.foresight import (
    CALIBRATION,
    CLOCK,
    DENSE_CLOCK,
    DENSE_SCORE,
    FRONT,
    PROFILE,
    SCORES,
    foreseen_stages,
)
from search.pipeline.plans import (
    begin_clock,
    front_on_clock,
    judge_of,
    plan_by_score,
    plan_on_clock,
)
from search.pipeline.processes import helped
from search.pipeline.request import Request
from search.pipeline.stages import (
    LayerTask,
    layer_work,
    profile_network,
    search_layers,
    search_weights,
    spaces_of,
    tables_of,
)
from search.whole_network.by_score import most_scores
from search.whole_network.judge import RE_ESTIMATED, Judge
from search.whole_network.plan_clock import PlanClock
from search.whole_network.trials import Trials
from search.workers.claims import Claims, joined
from sekron.budget import InfeasibleBudget
from sekron.network.network_metric import NetworkMetric
from sekron.network.plan import Plan
from sekron.spreadsheet import as_csv

OUTCOME = "outcome"
"""What workers note once front and plan are written."""


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
        stopwatch_of: From model, example input, profile and runtime to what measures.
        now: Returns the seconds by which its time is limited.
        on_begin: Called once other workers may join.

    Raises:
        InfeasibleBudget: As `search.run` does.
        ValueError: As `search.run` does.
    """
    limit = TimeLimit(request.measure_seconds, now)
    with Course(request.progress) as course:
        return _searched(request, recorder, warn, stopwatch_of, limit, on_begin, course)


def _searched(
    request: Request,
    recorder: Recorder,
    warn: Callable[[str], None],
    stopwatch_of: Callable[..., Stopwatch],
    limit: TimeLimit,
    on_begin: Callable[[], None],
    course: Course,
) -> SearchResult:
    settings = request.settings
    # What can be refused is refused before anything is computed or written.
    with course.stage(PROFILE):
        profile = profile_network(request)
        spaces = spaces_of(profile, settings)
        check_feasible(request.budget, profile, spaces, settings.rank_multiple)
        digests = weight_digests(request.model, profile)
        recorder.check(settings, profile, digests)
        recorder.check_writable()
        recorded = recorder.metric()
        known = recorded or NetworkMetric()
        work = layer_work(settings, profile, digests)
    if request.progress:
        course.foresee(foreseen_stages(request, profile, work.values(), recorded is not None))
    with quiet_optuna(), told(request.storage), ExitStack() as begun:

        def join() -> tuple[BaseStorage, Claims]:
            storage = recorder.trials(request.storage)
            return storage, begun.enter_context(joined(storage, settings.name, is_search=True))

        # In a new folder nobody else is at work, and nothing is written before all is accepted.
        is_new = recorded is None and request.storage is None
        opened = None if is_new else join()
        judge = _judge(request, recorder, recorder.scores(known), warn, course)
        stopwatch, timetable = None, None
        if request.measure_seconds > 0:
            with course.stage(DENSE_CLOCK):
                network = request.model, request.example_input, profile
                stopwatch = stopwatch_of(*network, settings.runtime)
                limit.stop_for(stopwatch.run_queue)
                times = recorder.timetable(known, settings.runtime)
                timetable = begin_clock(request, stopwatch, limit, profile, times, warn)
        with course.stage(CALIBRATION):
            metrics = metrics_for(request, profile, recorded, warn)
        storage, claims = opened or join()
        recorder.check(settings, profile, digests)  # again: another one may have begun meanwhile
        if recorded is None and recorder.metric() is not None:
            raise ValueError(
                f"another search has begun in {recorder.path} meanwhile; make the same search "
                "again, it goes on with what that one has found."
            )
        recorder.begin(settings, profile, digests, metrics)
        if judge is not None:
            _note_score(claims, judge, warn)
        on_begin()
        task = LayerTask(settings, profile, metrics, storage, work, recorder.factors())
        weights = search_weights(request.model, work)
        task.announce(course, request.n_threads)
        left = task.left(claims)
        with helped(
            recorder.path, request.storage, weights, left, request.n_threads, warn
        ) as n_threads:
            found = search_layers(task, weights, claims, course, n_threads)
        tables = tables_of(profile, digests, settings.calibrated, lambda layer: found[layer.name])
        choices = Choices(profile, tables, metrics, timetable, recorder.factors())
        trials = trials_of(settings, storage, claims)
        choices, best = _settled(
            request, choices, stopwatch, limit, judge, trials, recorder, warn, course, stopwatch_of
        )
        with course.stage(FRONT):
            result = outcome(request, choices, best, judge, recorder)
        claims.note(OUTCOME)
    return result


def outcome(
    request: Request, choices: Choices, best: Plan, judge: Judge | None, recorder: Recorder
) -> SearchResult:
    """Return the result of a search, and record it."""
    scores = None if judge is None else judge.scores
    beside = {}
    if request.settings.is_timed:
        beside = timetables_beside(recorder, choices.metrics, request.settings.runtime)
    result = SearchResult(choices, request.budget, best, scores, beside)
    front = result.pareto_front().drop(columns="plan")
    recorder.finish(as_csv(result.candidates()), as_csv(front), best)
    return result


def _note_score(claims: Claims, judge: Judge, warn: Callable[[str], None]) -> None:
    """Tell workers what they must agree with, and the user where scores of before do not."""
    noted, n_images = claims.finished(DENSE_SCORE), claims.finished(RE_ESTIMATED)
    if noted is not None:
        judge.agree(noted)
    if n_images not in (None, judge.n_images):
        warn(
            "the scores in the run folder are of networks whose batch norm was re-estimated with "
            f"{n_images:g} images, those to come with {judge.n_images}; take another folder to "
            "have all scored alike."
        )
    claims.note(DENSE_SCORE, judge.scores.dense)
    claims.note(RE_ESTIMATED, judge.n_images)


def _judge(
    request: Request,
    recorder: Recorder,
    recorded: Scores | None,
    warn: Callable[[str], None],
    course: Course,
) -> Judge | None:
    """Return what scores networks; what one score takes is known then."""
    begun = time.monotonic()
    with course.stage(DENSE_SCORE):
        judge = judge_of(request, recorder, recorded, warn)
    if judge is not None:
        n_scores = most_scores(request.budget, request.settings.n_network_trials)
        course.foresee({SCORES: n_scores * (time.monotonic() - begun)})
    return judge


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
    course: Course,
    stopwatch_of: Callable[..., Stopwatch],
) -> tuple[Choices, Plan]:
    """Return the choices with all times, and the plan that is best: by error, clock and score."""
    clock = best = None
    if stopwatch is not None and choices.timetable is not None:
        told_before = limit.spent

        def measuring(what: str) -> None:
            nonlocal told_before
            course.tell(f"measuring {what}", limit.spent - told_before)
            told_before = limit.spent

        clock = PlanClock(stopwatch, choices.timetable, limit, recorder.keep_timetable, measuring)
        with course.stage(CLOCK), limit.running():
            beside = timetables_beside(recorder, choices.metrics, request.settings.runtime)
            try:
                best = plan_on_clock(request, choices, clock, trials, beside.values(), warn)
            except InfeasibleBudget:
                tell_doubt(clock, warn)  # which may be why
                raise
            network = request.model, request.example_input, choices.profile
            time_elsewhere(
                best,
                choices,
                beside,
                partial(stopwatch_of, *network),
                limit,
                BEFORE_SCORES,
                recorder.keep_timetable,
                measuring,
                warn,
            )
            front_on_clock(request, choices, best, clock)
        choices = choices.retimed(clock.timetable)
    if judge is not None:
        with course.stage(SCORES) as seconds:
            each = seconds / most_scores(request.budget, trials.number)
            best = plan_by_score(
                request,
                choices,
                best,
                judge,
                clock,
                trials,
                lambda what: course.tell(f"scoring {what}", each),
                warn,
            )
    if clock is not None:
        choices = choices.retimed(clock.timetable)
        tell_times(clock, request.budget, course.say, warn)
    return choices, choices.best(request.budget) if best is None else best


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """One line per trial would drown the progress bar."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
