"""One more worker of a search that another process has begun."""

from __future__ import annotations

import sys
from pathlib import Path

from optuna.storages import BaseStorage
from torch import nn

from search.folder.run_folder import RunFolder
from search.folder.storage import told
from search.front.choices import Choices
from search.per_layer.identity import weight_digests
from search.pipeline.course import Course
from search.pipeline.foresight import DENSE_SCORE, LAYERS, SCORES, seconds_side_by_side, slowness
from search.pipeline.plans import judge_of, plan_by_score
from search.pipeline.processes import helped
from search.pipeline.request import Request, batches_for_scores
from search.pipeline.search import OUTCOME, outcome, quiet_optuna, trials_of
from search.pipeline.stages import (
    LayerTask,
    layer_work,
    search_layers,
    search_weights,
    tables_of,
)
from search.whole_network.judge import RE_ESTIMATED, Judge
from search.workers.claims import Claims, joined
from sekron.forward.batches import Batches
from sekron.forward.evaluation import Score
from sekron.forward.inputs import Inputs
from sekron.network.network_metric import NetworkMetric
from sekron.scalars import whole


def join(
    model: nn.Module,
    run: str | Path,
    *,
    storage: str | None = None,
    score: Score | None = None,
    calibration: Batches | NetworkMetric | None = None,
    example_input: Inputs | None = None,
    progress: bool = True,
    n_threads: int = 1,
) -> bool:
    """Help with the search in a run folder until it is done, with what it was asked for.

    The folder may be shared, or a copy where the trials are in a database. Workers come and go as
    they like, killed or not. They share layers, then whole networks that are scored; what is timed
    is left to the process that began, since a clock is one machine's.

    Args:
        model: The network that is searched, with its weights; never modified.
        run: The folder.
        storage: URL of the Optuna storage that the search was given, if it was.
        score: The search's, if it has one; without it this worker searches layers alone.
        calibration: Unlabelled batches to re-estimate batch norm with before networks are scored,
            as the search has them.
        example_input: As the search has it; needed only where the signature of forward does not
            tell which entries of a batch are inputs and which labels.
        progress: Whether to show a progress bar on stderr.
        n_threads: Layers that are searched at the same time, each on one thread, in processes of
            their own where that pays.

    Returns:
        Whether all is done and the folder has its front and plan; otherwise what is left needs the
        clock, or the score.

    Raises:
        FileNotFoundError: If nothing was begun in the folder, or its trials are not there.
        ValueError: If it is the search of another network, has another score or its trials
            elsewhere, or if no plan fits.
        ConnectionError: If the storage stays away, or others took this worker for dead.
    """
    folder = RunFolder(run)
    record = folder.read()
    settings, profile = record.settings, record.profile
    digests = weight_digests(model, profile)
    folder.check_weights(digests)
    if score is not None and not settings.is_scored:
        raise ValueError(f"{run} must have a score for one to be given, but was searched without.")
    n_threads = whole("n_threads", n_threads)
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1, got {n_threads}.")
    opened = folder.begun_trials(storage)
    metrics = folder.metric() or NetworkMetric()
    batches = None if score is None else batches_for_scores(calibration, model, example_input)
    request = Request(
        model,
        (),  # its profile is in the folder
        settings,
        calibration=batches,
        score=score,
        storage=storage,
        progress=progress,
        n_threads=n_threads,
    )
    judge = None
    if not settings.is_timed:  # else scores come after the clock, in the process that has it
        judge = judge_of(request, folder, folder.scores(metrics), _warn)
    work = layer_work(settings, profile, digests)
    task = LayerTask(settings, profile, metrics, opened, work, folder.factors())
    weights = search_weights(model, work)
    joining = joined(opened, settings.name, is_search=False)
    with quiet_optuna(), told(storage), joining as claims, Course(progress) as course:
        _check_score(claims, judge)
        if progress:
            seconds = seconds_side_by_side(work.values(), n_threads)
            course.foresee({LAYERS: slowness() * seconds})
        task.announce(course, n_threads)
        left = task.left(claims)
        with helped(folder.path, storage, weights, left, n_threads, _warn) as here:
            found = search_layers(task, weights, claims, course, here)
        tables = tables_of(profile, digests, settings.calibrated, lambda layer: found[layer.name])
        if settings.is_timed or (settings.is_scored and judge is None):
            return False
        choices = Choices(profile, tables, metrics, decomposition=folder.factors())
        _finish(request, choices, judge, folder, opened, claims, course)
    return True


def _finish(
    request: Request,
    choices: Choices,
    judge: Judge | None,
    folder: RunFolder,
    storage: BaseStorage,
    claims: Claims,
    course: Course,
) -> None:
    """Help to score whole networks, and write down the outcome unless another worker does."""
    if judge is None:
        best = choices.best(request.budget)
    else:
        trials = trials_of(request.settings, storage, claims)
        with course.stage(SCORES):
            best = plan_by_score(
                request,
                choices,
                None,
                judge,
                None,
                trials,
                lambda what: course.tell(f"scoring {what}"),
                _warn,
            )

    def write() -> float:
        outcome(request, choices, best, judge, folder)
        return 0.0

    claims.once(OUTCOME, write, after=claims.number)


def _check_score(claims: Claims, judge: Judge | None) -> None:
    """Refuse a score that is not the one of the search, and name trials as that one does.

    Raises:
        ValueError: If the dense network has another one, or networks are not scored as there.
    """
    claims.look()
    noted = None if judge is None else claims.finished(DENSE_SCORE)
    if judge is not None and noted is not None and not judge.agree(noted):
        raise ValueError(
            "`score` must be that of the search, in which the dense network has "
            f"{noted!r}, got {judge.scores.dense!r}; give the same score and the same data."
        )
    n_images = None if judge is None else claims.finished(RE_ESTIMATED)
    if judge is not None and n_images not in (None, judge.n_images):
        raise ValueError(
            "`calibration` must be that of the search, which re-estimates batch norm with "
            f"{n_images:g} images before it scores a network, got {judge.n_images}; give the same."
        )


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")
