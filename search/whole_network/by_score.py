"""Whole-network trials for a score: what the sum of the layers' errors does not see."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from optuna.samplers import TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial

from search.front.choices import Choices, Member
from search.per_layer.in_memory import in_memory
from search.per_layer.resumed_sampler import seed_of_trial
from search.whole_network.judge import Judge
from search.whole_network.plan_clock import NEVER
from search.whole_network.shared_judge import SharedJudge
from search.whole_network.shared_trials import PLAN, SharedTrials, study_of
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

FIRST = -1
"""Number of the plans that compete before any trial."""

Admission = Callable[[Member], float]
"""By how much a plan is too slow to win, where there is a clock; `NEVER` if it does not run."""


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
    trials. Several workers each take a trial that no other has, and know of all that were told.

    Args:
        choices: Of the search.
        budget: With a least score or without.
        start: The best plan by error, which is scored first.
        judge: Scores plans.
        admits: Whether a plan may win besides.
        trials: How many, where they are kept, and what this worker has in hand.
        on_progress: Called with what is being scored.
        warn: Called where all that score enough are slower than the dense network, and where the
            trials end since the layers' times admit no plan.

    Raises:
        InfeasibleBudget: If no plan within the other limits has the least score.
    """
    contest = _Contest(choices, budget, SharedJudge(judge, trials.claims), admits)
    contest.enter(start)
    if budget.min_score is not None:
        _bisect(contest, start, on_progress)
    reasons = _reasons(choices)
    question, dense = choices.question(budget), judge.scores.dense
    study = study_of(question, dense, trials)
    _run_trials(contest, study, trials, reasons, on_progress, warn)
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
    judge.crown(question, winner.plan)
    return winner.plan


def most_scores(budget: Budget, n_trials: int) -> int:
    """Return how many networks are scored, at most: before any trial, and one in each."""
    return 1 + (0 if budget.min_score is None else 1 + BISECTIONS) + n_trials


@dataclass(slots=True)
class _Contest:
    """The best plan so far, its score, the best score at all, and how many plans competed.

    The cheapest of the plans that are good enough, but slower than the clock admits, is kept too.
    """

    choices: Choices
    budget: Budget
    judge: SharedJudge
    admits: Admission
    best: Member | None = None
    slower: Member | None = None
    score: float = -math.inf
    most: float = -math.inf
    n_entered: int = 0
    entered: int = FIRST

    @property
    def room(self) -> Budget:
        """What the next plan may cost."""
        limits = self.budget.limits
        if self.budget.min_score is None or self.best is None:
            return limits
        return replace(limits, flops=max(int(STEP * self.best.used["flops"]), 1))

    def enter(self, plan: Plan, number: int = FIRST) -> float:
        """Score a plan and let it compete; return its score.

        Of equals the one with the lowest number wins, in whatever order they come.
        """
        score, least = self.judge(plan, is_in_hand=number != FIRST), self.budget.min_score
        member = self.choices.as_it_is(plan)
        if self.best is None:
            is_better = least is None or score >= least
        elif least is None:
            is_better = (score, -number) > (self.score, -self.entered)
        else:
            own, best = member.used["flops"], self.best.used["flops"]
            is_better = score >= least and (own, number) < (best, self.entered)
        excess = self.admits(member) if is_better else NEVER
        if excess <= 0.0:
            self.best, self.score, self.entered = member, score, number
        elif excess < NEVER and (
            self.slower is None or member.used["flops"] < self.slower.used["flops"]
        ):
            self.slower = member
        self.most = max(self.most, score)
        self.n_entered += 1
        return score


def _run_trials(
    contest: _Contest,
    study: Study,
    trials: Trials,
    reasons: dict[str, dict[str, float]],
    on_progress: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Enter the plans of all trials, those that others run too, until none is left."""
    known: set[int] = set()
    shared = SharedTrials(study, trials)

    def score(plan: Plan, number: int) -> float:
        _enter_told(contest, shared.told, known)  # another worker may have scored the same plan
        known.add(number)
        return contest.enter(plan, number)

    while (number := shared.next()) is not None:
        _enter_told(contest, shared.told, known)
        on_progress(f"trial {number + 1} of {trials.number}")
        trial = _asked(study, shared.told, number, trials.seed, reasons)
        try:
            plan = _weighted(contest.choices, trial, reasons).best(contest.room)
        except InfeasibleBudget:
            if contest.room == contest.budget.limits:  # else nothing is cheaper than the best plan
                warn(
                    f"by the layers' times no further plan is within {contest.room}; "
                    f"{len(known)} of {trials.number} trials were run."
                )
            break
        shared.run(number, trial, plan.to_json(), partial(score, plan, number))
    shared.wait_for_all()
    _enter_told(contest, shared.told, known)


def _asked(
    study: Study, told: dict[int, FrozenTrial], number: int, seed: int, names: Iterable[str]
) -> Trial:
    """Ask for a trial.

    Args:
        study: Of the trials.
        told: All trials that are finished.
        number: As the workers count it; in the first one all parameters are 0.
        seed: Of the sampler, which has one of its own for every trial: so a search that was
            interrupted goes on as if it had not been.
        names: Of the parameters.
    """
    sampler = TPESampler(
        seed=seed_of_trial(seed, number),
        n_startup_trials=N_STARTUP,
        multivariate=True,
    )
    proposing = in_memory(study, sampler, told.values())
    if number == 0:
        proposing.enqueue_trial(dict.fromkeys(names, 0.0))
    return proposing.ask()


def _weighted(choices: Choices, trial: Trial, reasons: dict[str, dict[str, float]]) -> Choices:
    """Return choices in which layers count more or less, as a trial suggests."""
    tilts = {reason: trial.suggest_float(reason, -REACH, REACH) for reason in reasons}
    weights = {
        name: 2.0 ** sum(tilts[reason] * of[name] for reason, of in reasons.items())
        for name in choices.tables
    }
    return choices.weighted(weights)


def _enter_told(contest: _Contest, told: dict[int, FrozenTrial], known: set[int]) -> None:
    """Let the plans compete that were told by now, and note that they have."""
    for number, trial in sorted(told.items()):
        if number not in known:
            plan = Plan.from_json(trial.user_attrs[PLAN]).within(contest.choices.metrics)
            contest.judge.learn(plan, trial.values[0])
            contest.enter(plan, number)
            known.add(number)


def _bisect(contest: _Contest, start: Plan, on_progress: Callable[[str], None]) -> None:
    """Enter plans with the least error at FLOPs between the least and those of the best."""
    choices, limits = contest.choices, contest.budget.limits
    with suppress(InfeasibleBudget):  # by the estimate of a clock, which may have found a plan
        if (exact := choices.best(limits)) != start:
            contest.enter(exact)
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
