"""The clock of a search, on which its rivals are timed too."""

from __future__ import annotations

import math

from torch import nn

from search.clock.race import compare
from search.clock.timetable import Timetable
from sekron.export.refusal import CannotRun
from sekron.forward.inputs import Arguments


class RivalsClock:
    """Times networks in turn with the dense one, of which the search has the time.

    Attributes:
        setting: What its times depend on, by which a comparison knows its rows.
        refused: Why networks have no time.

    Args:
        timetable: Of the search, measured in the setting of this process.
        arguments: What networks run on.
    """

    def __init__(self, timetable: Timetable, arguments: Arguments) -> None:
        self._timetable, self._arguments = timetable, arguments
        self.setting = f"{timetable.setting}, {timetable.network_ms!r} ms"
        self.refused: list[str] = []

    def __call__(self, dense: nn.Module, small: nn.Module) -> tuple[float, float]:
        """Return a network's milliseconds, as plans of the search have theirs, and its speed-up."""
        runtime = self._timetable.setting.runtime
        try:
            timed = compare(dense, small, self._arguments, runtime=runtime)
        except CannotRun as error:
            self.refused.append(str(error))
            return math.nan, math.nan
        return self._timetable.network_ms / timed.ratio, timed.ratio
