"""A rival's candidates for every layer of a network, as the exact allocation takes them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from types import MappingProxyType

from torch import nn

from baselines.methods import Method
from sekron.decomposition.metric import Metric
from sekron.network.surgery import weight_of
from sekron.profiling.network_profile import NetworkProfile
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.table import CandidateTable


def candidates(
    model: nn.Module,
    profile: NetworkProfile,
    method: Method,
    *,
    max_seconds: float = float("inf"),
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates of one method, the dense layer being always among them.

    Args:
        model: A trained network.
        profile: Costs of the network; its searched layers are factorized, but for grouped ones,
            which the methods do not know.
        method: A method, such as one of `METHODS`.
        max_seconds: Time for all layers; what one does not need is left to the next. A warning
            names the layers that needed more, and so have fewer candidates.
        metrics: Layer name -> metric that its whitened weight is decomposed in; errors are then
            weighed as in a calibrated search.
    """
    end = time.perf_counter() + max_seconds
    tables, late = {}, []
    for i, layer in enumerate(profile.searched):
        metric = metrics.get(layer.name)
        spectra = Spectra(weight_of(model, layer.name), layer.calls, metric)
        table = CandidateTable.within(metric, spectra.dense_flops, spectra.dense_params)
        tables[layer.name] = table
        if layer.groups > 1:
            continue
        now = time.perf_counter()
        layer_end = now + (end - now) / (len(profile.searched) - i)
        for curve in method.curves(spectra, layer_end):
            table.add(curve)
        if time.perf_counter() > layer_end:
            late.append(layer.name)
    if late:
        warnings.warn(
            f"time was up before all candidates of {', '.join(late)}; raise `max_seconds`, "
            f"got {max_seconds}.",
            stacklevel=2,
        )
    return tables
