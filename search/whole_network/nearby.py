"""Whole-network trials: what is not additive, searched by Optuna around the exact optima."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import optuna
from optuna.samplers import TPESampler

from search.clock.time_limit import NETWORKS
from search.front.choices import Choices, Member
from search.per_layer.in_memory import FINISHED, in_memory
from search.per_layer.objective_names import name_objectives
from search.per_layer.resumed_sampler import ResumedSampler
from search.whole_network.plan_clock import PlanClock
from search.whole_network.trials import Trials
from sekron.budget import Budget

N_SEEDS = 12
"""Members of the front that the study begins with: those nearest in error to the winner."""


class NetworkStudy:
    """One Optuna study over whole plans; what does not fit the budget is a broken constraint.

    A trial picks for every layer one of the candidates that the front uses anywhere. Its error is
    known; the network is measured only where that makes it better than the best so far, because
    nothing else can win.

    Args:
        choices: With a timetable.
        budget: That plans must hold.
        winner: The best plan so far, measured.
        front: The plans whose candidates are mixed.
        clock: Measures whole networks, within its limit.
        trials: How many, and where they are kept.
    """

    def __init__(
        self,
        choices: Choices,
        budget: Budget,
        winner: Member,
        front: Sequence[Member],
        clock: PlanClock,
        trials: Trials,
    ) -> None:
        self._choices, self._budget, self._winner = choices, budget, winner
        self._clock, self._n_trials = clock, trials.number
        rows = [choices.choice(member.plan) for member in (winner, *front)]
        self._ladders = [
            sorted({used[0], *(set(used) & set(layer.allowed(budget).tolist()))})
            for layer, used in zip(choices.layers.values(), zip(*rows, strict=True), strict=True)
        ]
        # Parameters are steps of the ladders: with others they would mean something else.
        text = f"{choices.question(budget)} {self._ladders}"
        self._study = optuna.create_study(
            storage=trials.storage,
            study_name=f"{trials.name}/networks/{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            direction="minimize",
            load_if_exists=True,
        )
        name_objectives(self._study, ["error"])
        self._finished = self._study.get_trials(deepcopy=False, states=FINISHED)
        sampler = ResumedSampler(_sampler, trials.seed)
        self._asked = in_memory(self._study, sampler, self._finished)
        near = sorted(rows, key=lambda choice: abs(choices.member(choice).error - winner.error))
        for choice in dict.fromkeys(near[:N_SEEDS]):
            steps = list(zip(self._ladders, choice, strict=True))
            if all(row in ladder for ladder, row in steps):
                params = {f"layer{i}": ladder.index(row) for i, (ladder, row) in enumerate(steps)}
                self._asked.enqueue_trial(params, skip_if_exists=True)

    def run(self) -> Member:
        """Run the trials that are left until the time is up; return the best plan."""
        for trial in self._finished:  # perhaps of an earlier session, and timed on another clock
            self._tried(trial.params, may_measure=self._has_time)
        for _ in range(self._n_trials - len(self._finished)):
            if not self._has_time:
                break
            asked = self._asked.ask()
            for i, ladder in enumerate(self._ladders):
                asked.suggest_int(f"layer{i}", 0, len(ladder) - 1)
            member, excess = self._tried(asked.params)
            asked.set_constraint("budget", excess)
            asked.set_user_attr("FLOPs", member.used["flops"])
            asked.set_user_attr("params", member.used["params"])
            self._study.add_trial(self._asked.tell(asked, member.error))
        return self._winner

    def _tried(self, params: dict[str, int], *, may_measure: bool = True) -> tuple[Member, float]:
        """Return a plan and its excess, which becomes the winner if it is better."""
        rows = (ladder[params[f"layer{i}"]] for i, ladder in enumerate(self._ladders))
        member = self._choices.member(tuple(rows))
        excess = self._choices.excess(member, self._budget)
        is_better = excess <= 0.0 and member.error < self._winner.error
        if is_better and (may_measure or self._clock.timetable.of(member.plan) is not None):
            excess = self._clock.excess(member, self._budget)
            if excess <= 0.0:
                self._winner = member
        return member, excess

    @property
    def _has_time(self) -> bool:
        return self._clock.limit.left(NETWORKS) > 0.0


def _sampler(seed: int) -> TPESampler:
    return TPESampler(seed=seed, n_startup_trials=N_SEEDS, multivariate=True)
