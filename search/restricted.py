"""A search's network with one structure per layer to choose from: a baseline at its best ranks."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from search.result import SearchResult
from sekron.spectrum import Spectra
from sekron.structure import Point, Shape
from sekron.table import CandidateTable


def restricted(
    result: SearchResult, model: nn.Module, template: Callable[[Shape], Point]
) -> SearchResult:
    """Return a result whose candidates are one template at every rank, the dense layer always in.

    Args:
        result: Of a search, for its profile and budget.
        model: The dense network that was searched.
        template: From the shape of a weight to a family and factor shapes.
    """
    tables = {}
    for layer in result.profile.searched:
        weight = model.get_submodule(layer.name).weight
        assert isinstance(weight, Tensor)
        spectra = Spectra(weight, layer.calls)
        family, shapes = template(layer.weight_shape)
        real = tuple(shape for shape in shapes if max(shape) > 1)  # a 1×1 kernel has no middle
        tables[layer.name] = CandidateTable(spectra.dense_flops, spectra.dense_params)
        tables[layer.name].add(spectra.curve(family, real))
    return SearchResult(result.profile, tables, result.budget)
