"""One Optuna study per layer: it proposes structures, and each brings its whole rank curve.

The study's storage is the only record. Only finished trials go there, each in one piece: with the
ranks and errors that were on the front when it was scored, so a table is rebuilt from it without
computing anything again, and a search that was killed loses the trial it was in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import create_trial

from search.per_layer.identity import digest, digest_in_metric, digest_of_calls
from search.per_layer.in_memory import FINISHED, in_memory
from search.per_layer.objective_names import name_objectives
from search.per_layer.samplers import SAMPLERS
from search.per_layer.space import Space
from search.per_layer.trial_record import attributes_of, curve_of, point_of
from sekron.forward.evaluation import one_line
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.pareto import hypervolume
from sekron.rank_curves.table import FRONTS, CandidateTable
from sekron.records import short
from sekron.structures.families import Point, clipped_ranks, n_ranks
from sekron.structures.flops import flops_of_calls
from sekron.structures.geometry import Geometry
from sekron.structures.structure import Structure

IDENTITY = "weight"
"""User attribute of a study: the digest of the weight that it searches, in its metric."""

SPACE = "space"
"""User attribute of a study: what its trials' parameters and ranks mean."""

ORIGIN = "origin"
"""User attribute of a study: who proposes its trials, and what their FLOPs are of; studies of
earlier releases get it when they are gone on with."""

METRIC_NAMES = ("front of error and FLOPs", "front of error and params")
"""Of the two objectives: the share of the plane that a structure dominates at all its ranks."""

TEMPLATE = "template"
"""User attribute of the trials that were enumerated, not proposed."""


class LayerStudy:
    """The search of one layer, over a study that may hold earlier trials.

    Args:
        name: Of the study.
        spectra: Scores structures of the layer's weight.
        space: The structures to search.
        sampler: Name from `SAMPLERS`.
        seed: Of the sampler.
        storage: Where trials are kept; None keeps them in memory.
        hold: Called before a structure is written down; raises where that is another's by now.
    """

    def __init__(
        self,
        name: str,
        spectra: Spectra,
        space: Space,
        *,
        sampler: str = "neighbour",
        seed: int = 0,
        storage: BaseStorage | str | None = None,
        hold: Callable[[], None] = lambda: None,
    ) -> None:
        self.spectra = spectra
        self.space = space
        self._hold = hold
        self.table = CandidateTable.within(
            spectra.metric, spectra.dense_flops, spectra.dense_params, spectra.groups
        )
        self._values: dict[Point, tuple[float, ...]] = {}
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=["maximize"] * len(FRONTS),
            load_if_exists=True,
        )
        self._check_identity(sampler, seed)
        name_objectives(self.study, METRIC_NAMES)
        self.n_proposed = replay(self.study, space, spectra.geometries, self.table, self._values)
        known = self.study.get_trials(deepcopy=False, states=FINISHED)
        self._asked = in_memory(self.study, SAMPLERS[sampler](space, self.table, seed), known)

    def _check_identity(self, sampler: str, seed: int) -> None:
        """Refuse a study of another weight, metric, sampler or input, or of other structures.

        Raises:
            ValueError: If the study in the storage is one.
        """
        space = self.space
        own = {
            IDENTITY: digest_in_metric(self.spectra.plain, self.spectra.metric),
            SPACE: f"{', '.join(space.families)}; at most {space.max_length} factors; ranks that "
            f"are multiples of {self.spectra.rank_multiple}",
            ORIGIN: f"{sampler}; seed {seed}; calls {digest_of_calls(self.spectra.geometries)}",
        }
        recorded = self.study.user_attrs
        if recorded.get(IDENTITY) == digest(self.spectra.weight):
            own[IDENTITY] = recorded[IDENTITY]  # earlier releases digested the product
        kinds = {
            IDENTITY: "of another weight or in another metric",
            SPACE: "of other structures",
            ORIGIN: "by another sampler or seed, or for another input",
        }
        for key, kind in kinds.items():
            if recorded.get(key, own[key]) != own[key]:
                raise ValueError(
                    f"the storage must hold no other search under the name "
                    f"{self.study.study_name!r}, but the one there is {kind}; choose another "
                    "`name` (`--name`), and another run folder."
                )
        for key in own.keys() - recorded.keys():
            self.study.set_user_attr(key, own[key])

    def run(self, n_trials: int, on_trial: Callable[[bool], None] = lambda _: None) -> None:
        """Enumerate the templates, then propose until the study has that many proposals.

        Args:
            n_trials: Proposals, those of earlier runs included.
            on_trial: Called after every structure, with whether it was scored now, not before.
        """
        for point in self.space.templates():
            is_new = point not in self._values
            if is_new:
                self._add_template(point)
            on_trial(is_new)
        for _ in range(min(self.n_proposed, n_trials)):
            on_trial(False)
        while self.n_proposed < n_trials:
            self.propose()
            on_trial(True)

    @property
    def n_scored(self) -> int:
        """Number of different structures scored so far."""
        return len(self._values)

    def propose(self) -> None:
        """Run one trial: the sampler proposes, a structure not seen before is scored."""
        trial = self._asked.ask()
        space = self.space.distributions()
        length = trial.suggest_int("length", space["length"].low, space["length"].high)
        params = {"length": length}
        for name in self.space.names(length)[1:]:
            high = self.space.last_proposed if name == "family" else space[name].high
            params[name] = trial.suggest_int(name, space[name].low, high)
        point = self.space.point(params)
        attributes: dict[str, object] = {}
        if point is None:  # all factors but one are of size 1
            values: tuple[float, ...] = (0.0,) * len(FRONTS)
        elif point in self._values:
            values = self._values[point]
        else:
            values, attributes = self._score(point, params)
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        finished = self._asked.tell(trial, values)
        self._hold()
        self.study.add_trial(finished)
        self.n_proposed += 1

    def _add_template(self, point: Point) -> None:
        params = self.space.params(point)
        values, attributes = self._score(point, params)
        space = self.space.distributions()
        trial = create_trial(
            values=list(values),
            params=params,
            distributions={name: space[name] for name in params},
            user_attrs={TEMPLATE: True, **attributes},
        )
        self._asked.add_trial(trial)
        self._hold()
        self.study.add_trial(trial)

    def _score(
        self, point: Point, params: dict[str, int]
    ) -> tuple[tuple[float, ...], dict[str, object]]:
        curve = self.spectra.curve(*point)
        alone = CandidateTable(self.table.dense_flops, self.table.dense_params)
        alone.add(curve)
        values = tuple(front_volume(alone, mix) for mix in FRONTS)
        rows = self.table.add(curve)
        self._values[point] = values
        ranks, errors = curve.ranks[rows].tolist(), curve.errors[rows].tolist()
        return values, attributes_of(params, values, ranks, errors)


def front_volume(table: CandidateTable, mix: float) -> float:
    """Return the hypervolume of a table's front, the dense layer included."""
    return hypervolume(np.append(table.costs(mix), 1.0), np.append(table.errors, 0.0))


def replay(
    study: optuna.Study,
    space: Space,
    geometries: tuple[Geometry, ...],
    table: CandidateTable,
    values: dict[Point, tuple[float, ...]],
) -> int:
    """Fill a table from the finished trials of a study and return how many were proposed.

    Args:
        study: With trials of `LayerStudy`, or without.
        space: The structures that its parameters stand for.
        geometries: The convolutions around the weight.
        table: Filled in place.
        values: Filled in place: what every structure scored.

    Raises:
        ValueError: If a trial is damaged.
    """
    n_proposed, curves = 0, []
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        n_proposed += TEMPLATE not in trial.user_attrs
        try:
            point = point_of(trial, space)
            if point is not None and point not in values:
                curves.append(curve_of(trial, point, geometries))
                values[point] = tuple(trial.values)
        except (ValueError, TypeError, LookupError, OverflowError) as error:
            raise ValueError(
                f"trial {trial.number} of the study {study.study_name!r} is damaged: "
                f"{short(one_line(error))}; search again in another folder or database."
            ) from error
    table.add(*curves)
    return n_proposed


def least_structures(
    points: Iterable[Point], geometries: tuple[Geometry, ...], rank_multiple: int = 1
) -> list[tuple[Structure, int, int]]:
    """Return structures at their least ranks with their FLOPs and parameters."""
    least = []
    for family, shapes in points:
        ranks = (rank_multiple,) * n_ranks(family, len(shapes))
        if clipped_ranks(family, shapes, ranks) != ranks:
            continue
        structure = Structure(family, shapes, ranks, geometries[0].groups)
        row = np.array([ranks], dtype=np.int64)
        flops = int(flops_of_calls(shapes, structure.bonds, row, geometries)[0])
        least.append((structure, flops, structure.n_params))
    return least
