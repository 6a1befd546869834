"""Whole-network trials for a score: what the sum of the layers' errors does not see."""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from search.front.frames import Member
from search.front.result import SearchResult
from search.whole_network.judge import Judge
from search.whole_network.trials import Trials
from sekron.budget import Budget, InfeasibleBudget
from sekron.calibration.sensitivity import LEAST
from sekron.network.plan import Plan

BISECTIONS = 8
"""Plans that are scored to find the fewest FLOPs of a least score, before any trial."""

STEP = 0.98
"""Share of the FLOPs of the best plan so far that the next one may have, for a least score."""

REACH = 1.0
"""Powers of two by which a trial changes, at most, how much a layer counts, for each reason."""

N_STARTUP = 8
"""Trials drawn at random before TPE has something to go by."""

Holds = Callable[[Member], bool]


def settle_score(
    result: SearchResult,
    judge: Judge,
    holds: Holds,
    trials: Trials,
    on_progress: Callable[[str], None],
) -> SearchResult:
    """Find the plan with the best score within the budget, or the cheapest with a least score.

    A trial lets layers count more or less by their place in the network, their size and what is
    known of their sensitivity, and the integer program is solved with that: so every plan that is
    scored fits the budget. A weight for each layer of its own would be too many for some thirty
    trials.

    Args:
        result: Of a search.
        judge: Scores plans.
        holds: Whether a plan is admitted besides: where there is a clock, by it.
        trials: How many, and where they are kept.
        on_progress: Called with what is being scored.

    Returns:
        The result with all scores and the best plan.

    Raises:
        InfeasibleBudget: If no plan within the other limits has the least score.
    """
    contest = _Contest(result, judge, holds)
    if result.budget.min_score is None:
        contest.enter(result.best)
    else:
        _bisect(contest, on_progress)
    reasons = _reasons(result)
    study = _study(result, judge, trials, list(reasons))
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for known in finished:
        contest.enter(Plan.from_json(known.user_attrs["plan"]).within(result.metrics))
    for number in range(len(finished), trials.number):
        on_progress(f"trial {number + 1} of {trials.number}")
        # Seeded for every trial, so that a search that was interrupted goes on as if not.
        study.sampler = TPESampler(
            seed=random.Random(f"{trials.seed}/{number}").getrandbits(32),
            n_startup_trials=N_STARTUP,
            multivariate=True,
        )
        trial = study.ask()
        tilts = {reason: trial.suggest_float(reason, -REACH, REACH) for reason in reasons}
        weights = {
            name: 2.0 ** sum(tilts[reason] * of[name] for reason, of in reasons.items())
            for name in result.tables
        }
        try:
            plan = result.weighed(weights).plan(contest.budget)
        except InfeasibleBudget:
            study.tell(trial, state=TrialState.FAIL)
            break  # nothing is cheaper than the best plan
        trial.set_user_attr("plan", plan.to_json())
        study.tell(trial, contest.enter(plan))
    winner = contest.best
    if not result.budget.is_clocked and contest.slower and not (winner and winner.plan):
        winner = contest.slower
        warnings.warn(
            f"{result.budget} is out of reach for networks that are not slower than the dense one; "
            "the plan is for one that is.",
            stacklevel=5,
        )
    if winner is None:
        raise InfeasibleBudget(
            f"the score must be reachable, got {result.budget}; the best of "
            f"{contest.n_entered} plans within its other limits has {contest.most:g}."
        )
    judge.crown(result.key, winner.plan)
    return replace(result, scores=judge.scores)


@dataclass(slots=True)
class _Contest:
    """The best plan so far, its score, the best score at all, and how many plans competed.

    The cheapest of the plans that are good enough, but that the clock does not admit, is kept too.
    """

    result: SearchResult
    judge: Judge
    holds: Holds
    best: Member | None = None
    slower: Member | None = None
    score: float = -math.inf
    most: float = -math.inf
    n_entered: int = 0

    @property
    def budget(self) -> Budget:
        """What the next plan may cost."""
        budget = replace(self.result.budget, min_score=None)
        if self.result.budget.min_score is None or self.best is None:
            return budget
        return replace(budget, flops=max(int(STEP * self.best.used["flops"]), 1))

    def enter(self, plan: Plan) -> float:
        """Score a plan and let it compete; return its score."""
        score, least = self.judge(plan), self.result.budget.min_score
        member = self.result.member(self.result.choice(plan))
        if least is None:
            is_better = self.best is None or score > self.score
        else:
            flops = math.inf if self.best is None else self.best.used["flops"]
            is_better = score >= least and member.used["flops"] < flops
        if is_better and self.holds(member):
            self.best, self.score = member, score
        elif is_better and (
            self.slower is None or member.used["flops"] < self.slower.used["flops"]
        ):
            self.slower = member
        self.most = max(self.most, score)
        self.n_entered += 1
        return score


def _bisect(contest: _Contest, on_progress: Callable[[str], None]) -> None:
    """Enter plans with the least error at FLOPs between the least and those of the best."""
    result, budget = contest.result, contest.budget
    contest.enter(result.plan(budget))
    if contest.best is None:
        return
    low, high = result.least("flops") * result.profile.flops, contest.best.used["flops"]
    for step in range(BISECTIONS):
        on_progress(f"plan {step + 1} of {BISECTIONS} between two FLOPs")
        middle, before = int(math.sqrt(low * high)), contest.best
        with suppress(InfeasibleBudget):  # the other limits may need more
            contest.enter(result.plan(replace(budget, flops=max(middle, 1))))
        if contest.best is before:
            low = middle
        else:
            high = contest.best.used["flops"]


def _reasons(result: SearchResult) -> dict[str, dict[str, float]]:
    """Return reason -> layer name -> how much it applies, the largest of each being 1."""
    layers = result.profile.searched
    columns = {
        "place": np.arange(len(layers), dtype=float),
        "size": np.log([layer.flops for layer in layers]),
        "sensitivity": np.log([max(result.tables[x.name].sensitivity, LEAST) for x in layers]),
    }
    scaled = {}
    for reason, values in columns.items():
        centred = values - values.mean()
        if centred.any():
            rows = (centred / np.abs(centred).max()).tolist()
            scaled[reason] = dict(zip((layer.name for layer in layers), rows, strict=True))
    return scaled


def _study(result: SearchResult, judge: Judge, trials: Trials, reasons: list[str]) -> optuna.Study:
    """Open the study of this budget, these candidates and this score."""
    text = f"{result.key} {judge.scores.dense!r}"
    study = optuna.create_study(
        storage=trials.storage,
        study_name=f"{trials.name}/scores/{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        direction="maximize",
        load_if_exists=True,
    )
    study.enqueue_trial(dict.fromkeys(reasons, 0.0), skip_if_exists=True)
    return study
