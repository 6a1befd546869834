"""Names of a study's objectives, which dashboards and tables show."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import optuna


def name_objectives(study: optuna.Study, names: Sequence[str]) -> None:
    """Name the objectives of a study, once.

    Optuna's own function warns, each time, that it may change; a user could do nothing about it.
    """
    if study.metric_names != list(names):
        inspect.unwrap(optuna.Study.set_metric_names)(study, list(names))
