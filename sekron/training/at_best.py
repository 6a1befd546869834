"""Change a network, and keep of all its states the one whose outputs are nearest to another's."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from sekron.calibration.divergence import Reference
from sekron.forward.evaluation import buffers_kept, evaluating
from sekron.training.batch_norm import norms_with_statistics


class Best:
    """The least divergence that a network had when it was looked at, and its state then.

    Attributes:
        first: Divergence of the network as it came.
        now: Of the network when it was last looked at.
        least: The least so far; infinite where no output was finite.
    """

    def __init__(self, network: nn.Module, reference: Reference) -> None:
        self._network, self._reference = network, reference
        self.first = self.least = self.now = self._divergence()
        self.state = copy.deepcopy(network.state_dict())

    def look(self) -> None:
        """Judge the network as it is now."""
        self.now = self._divergence()
        if self.now < self.least:
            self.least, self.state = self.now, copy.deepcopy(self._network.state_dict())

    def go_back(self) -> None:
        """Give the network the state that was best."""
        self._network.load_state_dict(self.state)

    def must_be_finite(self) -> None:
        """Refuse outputs that never were finite.

        Raises:
            ValueError: If none was.
        """
        if not math.isfinite(self.least):
            raise ValueError("the networks' outputs must be finite on the batches, but are not.")

    @property
    def ratio(self) -> float:
        """The least divergence over the first."""
        return self.least / self.first if self.first > 0.0 else 1.0

    def _divergence(self) -> float:
        with evaluating(self._network):
            return self._reference.divergence(self._network)


@contextmanager
def at_best(network: nn.Module, reference: Reference) -> Iterator[Best]:
    """Give a network its best state at the end, or the one that it came with after an error.

    Buffers that it changes itself when it runs, but for those of batch norm, are as they came.

    Args:
        network: Changed within the block, and looked at whenever it may be good.
        reference: That it is judged by.
    """
    with buffers_kept(network, but=norms_with_statistics(network)):
        best = Best(network, reference)
        first = best.state
        try:
            yield best
        except BaseException:
            network.load_state_dict(first)
            raise
        best.go_back()
