"""The studies of a run as people read them: a copy in memory, which may be changed as one likes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from search.folder.run_folder import RunFolder
from search.folder.run_record import RunRecord
from search.folder.storage import told
from search.per_layer.objective_names import name_objectives
from search.per_layer.space import Space
from search.per_layer.study import METRIC_NAMES, TEMPLATE
from search.per_layer.trial_record import curve_of, point_of
from search.pipeline.search import quiet_optuna
from search.pipeline.stages import spaces_of, study_name
from search.whole_network.shared_trials import PLAN
from sekron.forward.evaluation import one_line
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.curves import RankCurve
from sekron.records import short

HALF = 0.5
"""Share of the dense layer's FLOPs at which structures are told: all at the same one."""

Attributes = Callable[[FrozenTrial], dict[str, Any]]


def readable_studies(run: str | Path, storage: str | None = None) -> BaseStorage:
    """Return a copy of the studies of a run, with names and attributes for people.

    A trial of a layer's study is a structure at all its ranks. It is told at those with the least
    error among those with half of the layer's FLOPs, or else at those with the fewest.

    Args:
        run: The folder; its search may not be finished.
        storage: URL of the Optuna storage that the search was given, if it was.

    Raises:
        FileNotFoundError: If it is no run folder.
        ValueError: If it is damaged, or its trials are in a storage that is not given.
    """
    folder, shown = RunFolder(run), InMemoryStorage()
    record = folder.read()
    spaces = spaces_of(record.profile, record.settings)
    with quiet_optuna(), told(storage):
        found = folder.storage(storage)
        names = optuna.get_all_study_names(found)
        of_layers = {study_name(record.settings, layer) for layer in record.profile.searched}
        for layer in record.profile.searched:
            name = study_name(record.settings, layer)
            if name in names:
                study = optuna.load_study(study_name=name, storage=found)
                attributes = _of_layer(layer, spaces[layer.name])
                _copy(study, shown, f"layer {layer.name}", METRIC_NAMES, attributes)
        for kind, metric, attributes in (
            ("networks", "error", _of_network),
            ("scores", "score", _of_scored(record.profile)),
        ):
            prefix = f"{record.settings.name}/{kind}/"
            questions = [n for n in names if n.startswith(prefix) and n not in of_layers]
            for number, name in enumerate(questions, 1):
                study = optuna.load_study(study_name=name, storage=found)
                which = f" {number}" if len(questions) > 1 else ""
                title = f"whole networks by {metric}{which}"
                _copy(study, shown, title, [metric], attributes, _layer_names(record))
    return shown


def _copy(
    study: optuna.Study,
    storage: BaseStorage,
    name: str,
    metric_names: Sequence[str],
    attributes: Attributes,
    params: Mapping[str, str] | None = None,
) -> None:
    """Copy what has come to an end of a study."""
    shown = optuna.create_study(storage=storage, study_name=name, directions=study.directions)
    name_objectives(shown, metric_names)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)):
        told_trial = copy(trial)
        is_complete = trial.state == TrialState.COMPLETE
        try:
            told_trial.user_attrs = attributes(trial) if is_complete else {}
            # The dashboard knows constraints by the name that they had before Optuna 5.
            told_trial.system_attrs = {"constraints": list(trial.constraints.values())}
            told_trial.params = _renamed(trial.params, params or {})
            told_trial.distributions = _renamed(trial.distributions, params or {})
            shown.add_trial(told_trial)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise ValueError(
                f"trial {trial.number} of the study {study.study_name!r} is damaged: "
                f"{short(one_line(error))}; search again in another folder or database."
            ) from error


def _renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in values.items()}


def _layer_names(record: RunRecord) -> dict[str, str]:
    """Return what stands for a layer in the parameters of a whole network -> its name."""
    return {f"layer{i}": layer.name for i, layer in enumerate(record.profile.searched)}


def _of_layer(layer: LayerProfile, space: Space) -> Attributes:
    def attributes(trial: FrozenTrial) -> dict[str, Any]:
        point = point_of(trial, space)
        if point is None or not trial.user_attrs:  # the dense layer, or seen before
            return {"layer": layer.name}
        curve = curve_of(trial, point, layer.calls)
        proposed_by = "enumeration" if TEMPLATE in trial.user_attrs else "sampler"
        told = {"layer": layer.name, "proposed by": proposed_by, "family": point[0]}
        row = _told_row(curve, layer.flops)
        if row is None:  # at no ranks it was on the front
            return told
        return told | {
            "structure": str(curve.structure(row)),
            "error": float(curve.errors[row]),
            "FLOPs": int(curve.flops[row]),
            "params": int(curve.params[row]),
            "ranks kept": len(curve.errors),
        }

    return attributes


def _told_row(curve: RankCurve, dense_flops: int) -> int | None:
    if not len(curve.errors):
        return None
    fits = curve.flops <= HALF * dense_flops
    if not fits.any():
        return int(curve.flops.argmin())
    return int(np.where(fits, curve.errors, np.inf).argmin())


def _of_network(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.user_attrs)


def _of_scored(profile: NetworkProfile) -> Attributes:
    def attributes(trial: FrozenTrial) -> dict[str, Any]:
        plan = Plan.from_json(trial.user_attrs[PLAN])
        totals = profile.totals(plan)
        structures = {f"structure of {name}": str(plan[name]) for name in plan}
        return {"FLOPs": totals["flops"], "params": totals["params"], **structures}

    return attributes
