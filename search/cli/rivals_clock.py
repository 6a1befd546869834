"""The clock of a search, on which its rivals are timed too."""

from __future__ import annotations

import math

from torch import nn

from search.clock.race import compare
from search.clock.times import is_wide
from search.clock.timetable import Timetable
from sekron.export.refusal import failure_of
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
        """Return a network's milliseconds, as plans of the search have theirs, and its speed-up.

        A network that fails has neither, and one whose interval is too wide has no speed-up.
        """
        runtime = self._timetable.setting.runtime
        try:
            timed = compare(dense, small, self._arguments, runtime=runtime)
        except Exception as error:  # whatever a runtime raises of one rival
            self.refused.append(failure_of(error))
            return math.nan, math.nan
        is_sure = not is_wide(timed.low, timed.ratio, timed.high)
        return self._timetable.network_ms / timed.ratio, timed.ratio if is_sure else math.nan
