"""The stages of a search that do not look at whole networks: each from values to a value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from optuna.storages import BaseStorage
from torch import nn

from search.folder.settings import Settings
from search.per_layer.identity import identity
from search.per_layer.space import Space
from search.per_layer.study import LayerStudy
from search.pipeline.request import Request
from sekron.decomposition.decompose import EXACT
from sekron.network.network_metric import NetworkMetric
from sekron.network.opening import opened
from sekron.network.surgery import check_finite, weight_of
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.profiling.profile import profile as profile_of
from sekron.progress import bar
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
    tables: dict[tuple[object, ...], CandidateTable] = {}
    keys = {layer.name: identity(layer, digests, calibrated) for layer in profile.searched}
    for layer in profile.searched:
        if keys[layer.name] not in tables:
            tables[keys[layer.name]] = table_of(layer)
    return {name: tables[key] for name, key in keys.items()}


def search_candidates(
    request: Request,
    profile: NetworkProfile,
    digests: dict[str, str],
    metrics: NetworkMetric,
    storage: BaseStorage,
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates, each layer searched by an Optuna study.

    Args:
        request: The search.
        profile: Of the network.
        digests: Layer name -> digest of its weight.
        metrics: That errors are measured in.
        storage: Of the studies, which may hold earlier trials.
    """
    settings, spaces = request.settings, spaces_of(profile, request.settings)
    network = opened(request.model, [layer.name for layer in profile.searched])
    with bar(request.progress) as shown:
        task = shown.add_task("search", total=len(profile.searched))

        def table_of(layer: LayerProfile) -> CandidateTable:
            shown.update(task, description=layer.name)
            study = LayerStudy(
                study_name(settings, layer),
                _spectra(network, layer, metrics, settings),
                spaces[layer.name],
                sampler=settings.sampler,
                seed=settings.seed,
                storage=storage,
            )
            n_steps = len(study.space.templates()) + settings.n_trials
            study.run(settings.n_trials, on_trial=partial(shown.advance, task, 1 / n_steps))
            return study.table

        tables = tables_of(profile, digests, settings.calibrated, table_of)
        shown.update(task, completed=len(profile.searched))
        return tables


def study_name(settings: Settings, layer: LayerProfile) -> str:
    """Return the name of a layer's study."""
    return f"{settings.name}/{layer.name}"


def _spectra(
    model: nn.Module, layer: LayerProfile, metrics: NetworkMetric, settings: Settings
) -> Spectra:
    weight = weight_of(model, layer.name)
    return Spectra(weight, layer.calls, metrics.get(layer.name), settings.rank_multiple)


def _reasons(profile: NetworkProfile) -> str:
    """Say why layers are left dense, of the first few."""
    reasons = [f"{layer.name}: {layer.reason}" for layer in profile.layers]
    if len(reasons) > SHOWN:
        reasons[SHOWN:] = [f"and {len(reasons) - SHOWN} more, see `sekron layers`"]
    return "; ".join(reasons) or "it has no layers"
