"""A study in memory, in which trials are proposed before they are written down in one piece."""

from __future__ import annotations

from collections.abc import Iterable

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

FINISHED = (TrialState.COMPLETE,)
"""States of the trials that count; earlier releases left others behind."""


def in_memory(study: Study, sampler: BaseSampler, finished: Iterable[FrozenTrial]) -> Study:
    """Return a study in memory that stands for one in a storage.

    There every parameter that is suggested would be a write of its own, and a kill would leave
    half a trial. What `tell` returns goes to the other study by its `add_trial`.

    Args:
        study: In the storage.
        sampler: Proposes.
        finished: The trials of the study that it shall know.
    """
    proposing = optuna.create_study(sampler=sampler, directions=study.directions)
    proposing.add_trials(finished)
    return proposing
