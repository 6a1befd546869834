"""A plan as a pandas frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sekron.layers.operations import Form
from sekron.structures.structure import Structure

if TYPE_CHECKING:
    import pandas as pd

FRAME = (
    *("layer", "weight_shape", "structure", "family", "sequence_length", "ranks", "params"),
    "form",
)
"""Its columns."""


def plan_frame(layers: Mapping[str, Structure], form_of: Callable[[str], Form]) -> pd.DataFrame:
    """Return `Plan.to_frame`.

    Args:
        layers: Structures by layer name.
        form_of: Returns how a layer is run.
    """
    import pandas as pd  # noqa: PLC0415  slow, and a network that runs needs no table

    rows = [
        (
            name,
            structure.weight_shape,
            str(structure),
            structure.family,
            structure.length,
            structure.ranks,
            structure.n_params,
            str(form_of(name)),
        )
        for name, structure in layers.items()
    ]
    return pd.DataFrame(rows, columns=list(FRAME))
