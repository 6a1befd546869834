"""A rival's candidates for every layer of a network, as the exact allocation takes them."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor, nn

from baselines.methods import Method
from sekron.profiling import NetworkProfile
from sekron.spectrum import Spectra
from sekron.table import CandidateTable


def candidates(
    model: nn.Module,
    profile: NetworkProfile,
    method: Method,
    *,
    max_seconds: float = float("inf"),
    on_layer: Callable[[str], None] = lambda _: None,
) -> dict[str, CandidateTable]:
    """Return layer name -> candidates of one method, the dense layer being always among them.

    Args:
        model: A trained network.
        profile: Of the network; its searched layers are factorized.
        method: Such as one of `METHODS`.
        max_seconds: For all layers; what one does not need is left to the next.
        on_layer: Called with the name of each layer before its turn.
    """
    end = time.perf_counter() + max_seconds
    tables = {}
    for done, layer in enumerate(profile.searched):
        on_layer(layer.name)
        weight = model.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        spectra = Spectra(weight, layer.calls)
        table = CandidateTable(spectra.dense_flops, spectra.dense_params)
        now = time.perf_counter()
        for curve in method.curves(spectra, now + (end - now) / (len(profile.searched) - done)):
            table.add(curve)
        tables[layer.name] = table
    return tables
