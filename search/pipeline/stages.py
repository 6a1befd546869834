"""The stages of a search that do not look at whole networks: each from values to a value."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import optuna
from optuna.storages import BaseStorage
from torch import Tensor, nn

from search.folder.settings import Settings
from search.per_layer.depth import n_cp_ranks_of
from search.per_layer.identity import identity
from search.per_layer.space import Space
from search.per_layer.study import LayerStudy, replay
from search.pipeline.course import Course
from search.pipeline.foresight import LAYERS, LayerWork, announcement, work_of_layers
from search.pipeline.request import Request
from search.pipeline.side_by_side import side_by_side
from search.workers.claims import Claims, done_in
from sekron.decomposition.decompose import EXACT, Decomposition
from sekron.decomposition.gram import WIDE
from sekron.network.network_metric import NetworkMetric
from sekron.network.opening import opened
from sekron.network.surgery import check_finite, weight_of
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.profile import profile as profile_of
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable

SHOWN = 6
"""Layers of which an error tells why they stay dense."""


def profile_network(request: Request) -> NetworkProfile:
    """Return the cost of the network, and what of it is searched.

    Raises:
        ValueError: If nothing can be replaced, or a weight is not finite.
    """
    settings = request.settings
    profile = profile_of(
        request.model,
        request.example_input,
        settings.include,
        settings.exclude,
        settings.min_share,
    )
    if not profile.searched:
        raise ValueError(f"the network has nothing to replace: {_reasons(profile)}.")
    check_finite(request.model, [layer.name for layer in profile.searched])
    return profile


def spaces_of(profile: NetworkProfile, settings: Settings) -> dict[str, Space]:
    """Return layer name -> its structures.

    What is fitted rank by rank takes as many times as long as a convolution has groups: there only
    the exact families are searched, if any is.
    """
    exact = tuple(family for family in settings.families if family in EXACT)
    return {
        layer.name: Space(
            layer.block_shape,
            settings.max_sequence_length,
            exact if exact and layer.groups > 1 else settings.families,
        )
        for layer in profile.searched
    }


def tables_of(
    profile: NetworkProfile,
    digests: dict[str, str],
    calibrated: bool,
    table_of: Callable[[LayerProfile], CandidateTable],
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates; layers of equal weight and cost have the same.

    Args:
        profile: Of the network.
        digests: Layer name -> digest of its weight.
        calibrated: Whether there is a metric, in which every layer is a case of its own.
        table_of: Returns the candidates of a layer: searches them, or reads them.
    """
    owners = _owners(profile, digests, calibrated)
    tables = {
        layer.name: table_of(layer) for layer in profile.searched if owners[layer.name] is layer
    }
    return {name: tables[owner.name] for name, owner in owners.items()}


def _owners(
    profile: NetworkProfile, digests: dict[str, str], calibrated: bool
) -> dict[str, LayerProfile]:
    """Return layer name -> the first of the layers that are searched as one with it."""
    first: dict[tuple[object, ...], LayerProfile] = {}
    return {
        layer.name: first.setdefault(identity(layer, digests, calibrated), layer)
        for layer in profile.searched
    }


def layer_work(
    settings: Settings, profile: NetworkProfile, digests: dict[str, str]
) -> dict[str, LayerWork]:
    """Return layer name -> about how long it takes, for those that are searched, equal ones once.

    Args:
        settings: Of the search.
        profile: Of the network.
        digests: Layer name -> digest of its weight.
    """
    owners = {o.name: o for o in _owners(profile, digests, settings.calibrated).values()}
    spaces = spaces_of(profile, settings)
    return work_of_layers(owners.values(), spaces, profile, settings.n_trials, settings.calibrated)


@dataclass(frozen=True, eq=False, slots=True)
class LayerTask:
    """What the workers of a search share of its layers.

    Attributes:
        settings: Of the search.
        profile: Of the network.
        metrics: That errors are measured in.
        storage: Of the studies, which may hold earlier trials.
        work: Layer name -> about how long it takes, for those to be searched.
        decomposition: Gives the factors of what is fitted rank by rank.
    """

    settings: Settings
    profile: NetworkProfile
    metrics: NetworkMetric
    storage: BaseStorage
    work: Mapping[str, LayerWork]
    decomposition: Decomposition

    def left(self, claims: Claims) -> dict[str, float]:
        """Return layer name -> seconds, for layers that nobody had finished at the last look."""
        left = {}
        for name, work in self.work.items():
            done = claims.finished(_piece(name))
            if done is None or done < work.n_trials:
                left[name] = work.seconds
        return left

    def announce(self, course: Course, n_together: int) -> None:
        """Say beforehand how long layers will take, so many at the same time, if that is long."""
        if not course.is_shown:
            return
        begun = set(optuna.get_all_study_names(self.storage))
        owners = [layer for layer in self.profile.searched if layer.name in self.work]
        new = [o.name for o in owners if study_name(self.settings, o) not in begun]
        if foretold := announcement([self.work[name] for name in new], n_together):
            course.say(foretold)


def search_layers(
    task: LayerTask,
    weights: Mapping[str, Tensor],
    claims: Claims,
    course: Course,
    n_threads: int,
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates, each layer searched by an Optuna study.

    A layer is searched by one worker, the one that claims it; its study goes on where another one
    that was killed has left it.

    Args:
        task: The layers.
        weights: Layer name -> weight.
        claims: What this worker has in hand.
        course: Of the search.
        n_threads: Layers at the same time.
    """
    settings, work, spaces = task.settings, task.work, spaces_of(task.profile, task.settings)
    owners = {layer.name: layer for layer in task.profile.searched if layer.name in work}
    # What takes longest is begun first, so that no core is left without work at the end.
    order = sorted(owners, key=lambda name: -work[name].seconds)
    # Errors of wide layers are known to fp32's digits anyway, whose last a thread more may change.
    are_wide = all(owner.params >= WIDE for owner in owners.values())
    n_each = max(n_threads // max(len(owners), 1), 1) if are_wide else 1
    elsewhere: set[str] = set()
    with course.stage(LAYERS) as foreseen:
        per_second = foreseen / max(sum(own.seconds for own in work.values()), 1e-9)

        def searched(name: str, go_on: Callable[[], None]) -> CandidateTable | None:
            """Return the candidates of a layer, None while another worker searches it."""
            n_trials, metric = work[name].n_trials, task.metrics.get(name)
            done = claims.finished(_piece(name), claims.session)
            if done is not None and done >= n_trials:
                if name not in elsewhere:
                    course.skip(per_second * work[name].seconds)
                return recorded_table(
                    settings, owners[name], spaces[name], task.metrics, task.storage
                )[0]
            claim = claims.take(_piece(name))
            if claim is None:
                if name not in elsewhere:  # it goes on at the pace of this one
                    elsewhere.add(name)
                    course.tell(name, per_second * work[name].seconds)
                return None
            ranks = settings.rank_multiple, n_cp_ranks_of(owners[name], task.profile)
            study = LayerStudy(
                study_name(settings, owners[name]),
                Spectra(weights[name], owners[name].calls, metric, *ranks, task.decomposition),
                spaces[name],
                sampler=settings.sampler,
                seed=settings.seed,
                storage=task.storage,
                hold=claims.hold,
            )
            steps = work[name].steps

            def on_trial(is_new: bool) -> None:
                seconds = per_second * next(steps)
                if is_new:
                    course.tell(name, seconds)
                else:
                    course.skip(seconds)
                go_on()

            study.run(n_trials, on_trial)
            claim.done(n_trials)
            return study.table

        found: dict[str, CandidateTable] = {}
        while left := [name for name in order if name not in found]:
            claims.look()
            tables = side_by_side(searched, left, n_threads, n_each)
            pairs = zip(left, tables, strict=True)
            found |= {name: table for name, table in pairs if table is not None}
            if len(found) < len(order):
                claims.wait(_piece(""))
    return found


def search_weights(model: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Return layer name -> weight of a network, as the layers are searched."""
    network = opened(model, names)
    return {name: weight_of(network, name) for name in names}


def recorded_table(
    settings: Settings,
    layer: LayerProfile,
    space: Space,
    metrics: NetworkMetric,
    storage: BaseStorage,
) -> tuple[CandidateTable, int]:
    """Return the candidates in a layer's study, and the number of its proposals."""
    study = optuna.load_study(study_name=study_name(settings, layer), storage=storage)
    table = CandidateTable.within(metrics.get(layer.name), layer.flops, layer.params, layer.groups)
    return table, replay(study, space, layer.calls, table, {})


def layers_done(
    settings: Settings, profile: NetworkProfile, storage: BaseStorage
) -> frozenset[str]:
    """Return the names of the layers of which a worker has noted that they are searched."""
    done = done_in(storage, settings.name)
    return frozenset(layer.name for layer in profile.searched if _piece(layer.name) in done)


def _piece(layer: str) -> str:
    """Return the name of the claim to a layer, or with nothing how those of all begin."""
    return f"layer {layer}"


def study_name(settings: Settings, layer: LayerProfile) -> str:
    """Return the name of a layer's study."""
    return f"{settings.name}/{layer.name}"


def _reasons(profile: NetworkProfile) -> str:
    """Say why layers are left dense, of the first few."""
    reasons = [f"{layer.name}: {layer.reason}" for layer in profile.layers]
    if len(reasons) > SHOWN:
        reasons[SHOWN:] = [f"and {len(reasons) - SHOWN} more, see `sekron layers`"]
    return "; ".join(reasons) or "it has no layers"
