"""The trials of a score, of which every worker takes some."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from search.per_layer.in_memory import FINISHED
from search.per_layer.objective_names import name_objectives
from search.whole_network.trials import Trials
from search.workers.claims import Claim

NUMBER = "number"
"""User attribute of a trial: its number as workers count, without those that failed."""


def study_of(question: str, dense: float, trials: Trials) -> Study:
    """Open the study of a question and a score.

    Args:
        question: Digest of what decides the best plan.
        dense: Score of the dense network, which stands for the function and its data.
        trials: Of the study.
    """
    text = f"{question} {dense!r}"
    study = optuna.create_study(
        storage=trials.storage,
        study_name=f"{trials.name}/scores/{hashlib.sha256(text.encode()).hexdigest()[:12]}",
        direction="maximize",
        load_if_exists=True,
    )
    name_objectives(study, ["score"])
    return study


def open_trials(
    study: Study, trials: Trials, known: set[int]
) -> Iterator[tuple[int, Claim, dict[int, FrozenTrial]]]:
    """Yield the numbers of trials that nobody has told or has in hand, until all are told.

    Args:
        study: Of the trials.
        trials: How many, and what this worker has in hand.
        known: Numbers of those that were told.

    Yields:
        The number, the claim to it, and all that was told by then.
    """
    told: dict[int, FrozenTrial] = {}
    while left := sorted(set(range(trials.number)) - known - set(told)):
        held = trials.claims.held(piece(study))
        free = [number for number in left if f"{piece(study)}{number}" not in held]
        claim = trials.claims.take(f"{piece(study)}{free[0]}") if free else None
        if claim is None:
            trials.claims.wait(piece(study))
        told = told_in(study)
        if claim is not None and free[0] in told:  # since it was looked for
            claim.done()
        elif claim is not None:
            yield free[0], claim, told


def told_in(study: Study) -> dict[int, FrozenTrial]:
    """Return number -> trial, as the workers count them; Optuna counts failed ones too."""
    told = study.get_trials(deepcopy=False, states=FINISHED)
    # Those of earlier releases have no number.
    return {trial.user_attrs.get(NUMBER, i): trial for i, trial in enumerate(told)}


def piece(study: Study) -> str:
    """Return how the names of the claims to trials begin."""
    return f"trial of {study.study_name}: "
