"""Whole-network trials: what is not additive, searched by Optuna around the exact optima."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import optuna
from optuna.samplers import TPESampler
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from search.front.frames import Member
from search.front.result import SearchResult

N_SEEDS = 12
"""Members of the front that the study begins with: those nearest in error to the winner."""


class NetworkStudy:
    """One Optuna study over whole plans; what does not fit the budget is a broken constraint.

    A trial picks for every layer one of the candidates that the front uses anywhere. Its error is
    known; the network is measured only where that makes it better than the best so far, because
    nothing else can win.

    Args:
        result: With a timetable.
        winner: The best plan so far, measured.
        measure: Returns by how much a measured plan exceeds the budget's latency, relative to it;
            zero or less where it holds.
        storage: Where trials are kept.
        name: Of the study.
        seed: Of the sampler.
    """

    def __init__(
        self,
        result: SearchResult,
        winner: Member,
        measure: Callable[[Member], float],
        storage: BaseStorage,
        name: str,
        seed: int,
    ) -> None:
        self._result = result
        self._measure = measure
        self._winner = winner
        choices = [result.choice(member.plan) for member in (winner, *result.members)]
        self._ladders = [
            sorted({used[0], *(set(used) & set(layer.allowed(result.budget).tolist()))})
            for layer, used in zip(result.options.values(), zip(*choices, strict=True), strict=True)
        ]
        # Parameters are steps of the ladders: with others they would mean something else.
        identity = hashlib.sha256(f"{result.budget} {self._ladders}".encode()).hexdigest()[:12]
        self._study = optuna.create_study(
            storage=storage,
            sampler=TPESampler(seed=seed, n_startup_trials=N_SEEDS, multivariate=True),
            study_name=f"{name}/networks/{identity}",
            direction="minimize",
            load_if_exists=True,
        )
        near = sorted(choices, key=lambda choice: abs(result.member(choice).error - winner.error))
        for choice in dict.fromkeys(near[:N_SEEDS]):
            steps = list(zip(self._ladders, choice, strict=True))
            if all(row in rows for rows, row in steps):
                params = {f"layer{i}": rows.index(row) for i, (rows, row) in enumerate(steps)}
                self._study.enqueue_trial(params, skip_if_exists=True)

    def run(self, n_trials: int, end: float) -> Member:
        """Run trials until that many are finished or the time is up; return the best plan."""
        finished = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        for known in finished:
            self._judge(known.params)
        for _ in range(n_trials - len(finished)):
            if time.perf_counter() > end:
                break
            trial = self._study.ask()
            for i, rows in enumerate(self._ladders):
                trial.suggest_int(f"layer{i}", 0, len(rows) - 1)
            error, excess = self._judge(trial.params)
            trial.set_constraint("budget", excess)
            self._study.tell(trial, error)
        return self._winner

    def _judge(self, params: dict[str, int]) -> tuple[float, float]:
        """Return error and excess of a plan, which becomes the winner if it is better."""
        rows = (rows[params[f"layer{i}"]] for i, rows in enumerate(self._ladders))
        member = self._result.member(tuple(rows))
        excess = self._result.excess(member)
        if excess <= 0.0 and member.error < self._winner.error:
            excess = self._measure(member)
            if excess <= 0.0:
                self._winner = member
        return member.error, excess
