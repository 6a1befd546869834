"""What a training does on top of fitting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Regularizer:
    """What else a training does, besides fitting.

    Attributes:
        name: What it is, with its settings: a folder holds one training.
        parameters: That it works on; neither decayed nor clipped.
        rate: Their learning rate over that of all others.
        penalty: Added to the loss; called with the share of the training that is done.
        after_step: Called after every step of the optimizer.
    """

    name: str
    parameters: list[nn.Parameter]
    rate: float
    penalty: Callable[[float], Tensor]
    after_step: Callable[[], None]
