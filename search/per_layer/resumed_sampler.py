"""Samplers of Optuna's whose random numbers go on where an earlier process stopped."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


class ResumedSampler(BaseSampler):
    """Makes the same proposals in a study that was stopped and gone on with as in one that was not.

    Optuna's samplers keep a stream of random numbers that begins anew in every process, and so
    would their proposals. Here each trial has a stream of its own, from the seed and its number,
    which is that of the trials finished before it (`in_memory`); all else is in the study.

    Args:
        make: Returns a sampler with a seed from 0 to 2³² - 1.
        seed: Any whole number.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._of_trial: tuple[int, BaseSampler] | None = None

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return what its sampler does."""
        return self._sampler(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what its sampler does."""
        return self._sampler(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return what its sampler does."""
        sampler = self._sampler(trial)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Let its sampler prepare."""
        self._sampler(trial).before_trial(study, trial)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Let its sampler note what came of a trial."""
        self._sampler(trial).after_trial(study, trial, state, values)

    def _sampler(self, trial: FrozenTrial) -> BaseSampler:
        if self._of_trial is None or self._of_trial[0] != trial.number:
            self._of_trial = (trial.number, self._make(seed_of_trial(self._seed, trial.number)))
        return self._of_trial[1]


def seed_of_trial(seed: int, number: int) -> int:
    """Return the seed of a trial's own sampler: an interrupted search goes on as if it were not."""
    return random.Random(f"{seed}/{number}").getrandbits(32)
