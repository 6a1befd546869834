"""The unlabelled images that a network is fitted to."""

from __future__ import annotations

import warnings

from torch import nn

from sekron.forward.batches import Batches
from sekron.forward.evaluation import inputs_of, without_singles
from sekron.forward.inputs import Arguments

FEWEST = 16
"""Images, below which a fit may well be to nothing but them."""


def unlabelled(batches: Batches, network: nn.Module) -> list[Arguments]:
    """Return batches that a network is fitted to, none of a single image where there are more.

    Few images are warned of: on others the network may end worse than it was.

    Raises:
        ValueError: As `inputs_of` does.
    """
    inputs = list(without_singles(inputs_of(batches, network, "`batches`")))
    n_images = sum(map(len, inputs))
    if n_images < FEWEST:
        warnings.warn(
            f"`batches` should hold some hundred images, got {n_images}: on others than so few the "
            "network may end worse than it was.",
            stacklevel=4,
        )
    return inputs
