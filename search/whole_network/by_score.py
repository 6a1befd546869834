"""Whole-network trials for a score: what the sum of the layers' errors does not see."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from search.front.choices import Choices, Member
from search.per_layer.objective_names import name_objectives
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

PLAN = "plan"
"""User attribute of a trial: the plan that was scored, as JSON."""

Admission = Callable[[Member], bool]
"""Whether a plan may win: where there is a clock, by that."""


def best_by_score(
    choices: Choices,
    budget: Budget,
    start: Plan,
    judge: Judge,
    admits: Admission,
    trials: Trials,
    on_progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> Plan:
    """Return the plan with the best score within a budget, or the cheapest with a least score.

    A trial lets layers count more or less by their place in the network, their size and what is
    known of their sensitivity, and the integer program is solved with that: so every plan that is
    scored fits the budget. A weight for each layer of its own would be too many for some thirty
    trials.

    Args:
        choices: Of the search.
        budget: With a least score or without.
        start: The best plan by error, which is scored first where there is no least score.
        judge: Scores plans.
        admits: Whether a plan may win besides.
        trials: How many, and where they are kept.
        on_progress: Called with what is being scored.
        warn: Called where all that score enough are slower than the dense network.

    Raises:
        InfeasibleBudget: If no plan within the other limits has the least score.
    """
    contest = _Contest(choices, budget, judge, admits)
    if budget.min_score is None:
        contest.enter(start)
    else:
        _bisect(contest, on_progress)
    reasons = _reasons(choices)
    study = _study(choices.question(budget), judge, trials, list(reasons))
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    for trial in finished:
        contest.enter(Plan.from_json(trial.user_attrs[PLAN]).within(choices.metrics))
    for number in range(len(finished), trials.number):
        on_progress(f"trial {number + 1} of {trials.number}")
        # Seeded for every trial, so that a search that was interrupted goes on as if not.
        study.sampler = TPESampler(
            seed=random.Random(f"{trials.seed}/{number}").getrandbits(32),
            n_startup_trials=N_STARTUP,
            multivariate=True,
        )
        asked = study.ask()
        tilts = {reason: asked.suggest_float(reason, -REACH, REACH) for reason in reasons}
        weights = {
            name: 2.0 ** sum(tilts[reason] * of[name] for reason, of in reasons.items())
            for name in choices.tables
        }
        weighted = choices.weighted(weights)
        try:
            plan = weighted.best(contest.room)
        except InfeasibleBudget:
            study.tell(asked, state=TrialState.FAIL)
            break  # nothing is cheaper than the best plan
        asked.set_user_attr(PLAN, plan.to_json())
        study.tell(asked, contest.enter(plan))
    winner = contest.best
    if not budget.is_clocked and contest.slower and not (winner and winner.plan):
        winner = contest.slower
        warn(
            f"{budget} is out of reach for networks that are not slower than the dense one; "
            "the plan is for one that is."
        )
    if winner is None:
        raise InfeasibleBudget(
            f"the score must be reachable, got {budget}; the best of "
            f"{contest.n_entered} plans within its other limits has {contest.most:g}."
        )
    judge.crown(choices.question(budget), winner.plan)
    return winner.plan


def most_scores(budget: Budget, n_trials: int) -> int:
    """Return how many networks are scored, at most: before any trial, and one in each."""
    return 1 + (0 if budget.min_score is None else BISECTIONS) + n_trials


@dataclass(slots=True)
class _Contest:
    """The best plan so far, its score, the best score at all, and how many plans competed.

    The cheapest of the plans that are good enough, but that the clock does not admit, is kept too.
    """

    choices: Choices
    budget: Budget
    judge: Judge
    admits: Admission
    best: Member | None = None
    slower: Member | None = None
    score: float = -math.inf
    most: float = -math.inf
    n_entered: int = 0

    @property
    def room(self) -> Budget:
        """What the next plan may cost."""
        limits = self.budget.limits
        if self.budget.min_score is None or self.best is None:
            return limits
        return replace(limits, flops=max(int(STEP * self.best.used["flops"]), 1))

    def enter(self, plan: Plan) -> float:
        """Score a plan and let it compete; return its score."""
        score, least = self.judge(plan), self.budget.min_score
        member = self.choices.member(self.choices.choice(plan))
        if least is None:
            is_better = self.best is None or score > self.score
        else:
            flops = math.inf if self.best is None else self.best.used["flops"]
            is_better = score >= least and member.used["flops"] < flops
        if is_better and self.admits(member):
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
    choices, limits = contest.choices, contest.room
    contest.enter(choices.best(limits))
    if contest.best is None:
        return
    low, high = choices.least("flops") * choices.profile.flops, contest.best.used["flops"]
    for step in range(BISECTIONS):
        on_progress(f"plan {step + 1} of {BISECTIONS} between two FLOPs")
        middle, before = int(math.sqrt(low * high)), contest.best
        with suppress(InfeasibleBudget):  # the other limits may need more
            contest.enter(choices.best(replace(limits, flops=max(middle, 1))))
        if contest.best is before:
            low = middle
        else:
            high = contest.best.used["flops"]


def _reasons(choices: Choices) -> dict[str, dict[str, float]]:
    """Return reason -> layer name -> how much it applies, the largest of each being 1."""
    layers = choices.profile.searched
    sensitivities = [max(choices.tables[layer.name].sensitivity, LEAST) for layer in layers]
    columns = {
        "place": np.arange(len(layers), dtype=float),
        "size": np.log([layer.flops for layer in layers]),
        "sensitivity": np.log(sensitivities),
    }
    scaled = {}
    for reason, values in columns.items():
        centred = values - values.mean()
        if centred.any():
            rows = (centred / np.abs(centred).max()).tolist()
            scaled[reason] = dict(zip((layer.name for layer in layers), rows, strict=True))
    return scaled


def _study(question: str, judge: Judge, trials: Trials, reasons: list[str]) -> optuna.Study:
    """Open the study of this question and this score."""
    text = f"{question} {judge.scores.dense!r}"
    study = optuna.create_study(
        storage=trials.storage,
        study_name=f"{trials.name}/scores/{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        direction="maximize",
        load_if_exists=True,
    )
    name_objectives(study, ["score"])
    study.enqueue_trial(dict.fromkeys(reasons, 0.0), skip_if_exists=True)
    return study
