"""How a search is measured: for how long, by what, and what no clock can give."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from optuna.storages import BaseStorage
from torch import nn

from search.clock.stopwatch import Stopwatch
from search.clock.timetable import Timetable
from search.folder.run_folder import RunFolder
from sekron.budget import Budget, InfeasibleBudget
from sekron.profiling.network_profile import NetworkProfile
from sekron.profiling.profile import Inputs


@dataclass(frozen=True, slots=True)
class Trials:
    """Whole-network trials: how many, and where they are kept.

    Args:
        number: Trials, those of earlier runs included.
        storage: Of the study.
        name: Prefix of the study's name.
        seed: Of the sampler.
    """

    number: int
    storage: BaseStorage
    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Clock:
    """How a search is measured.

    Args:
        seconds: Limit of the time for layers, and again for whole networks; 0 for not at all.
        keep: Whether to use recorded latencies of another setting.
        n_trials: Trials of whole networks, where latency is limited.
    """

    seconds: float
    keep: bool
    n_trials: int

    def begin(
        self,
        model: nn.Module,
        example_input: Inputs,
        measured: NetworkProfile,
        folder: RunFolder | None,
    ) -> tuple[Stopwatch | None, Timetable | None]:
        """Return what measures, and what was recorded or a fresh timetable."""
        if self.seconds == 0:
            return None, None
        stopwatch = Stopwatch(model, example_input, measured)
        recorded = None if folder is None else folder.timetable()
        if recorded is not None:
            difference = recorded.setting.difference(stopwatch.setting())
            if not difference or self.keep:
                return stopwatch, recorded
            warnings.warn(
                f"the latencies in {folder and folder.path} were measured in another setting "
                f"({difference}); they are measured anew.",
                stacklevel=4,
            )
        return stopwatch, stopwatch.start()


def check_latency(budget: Budget, timetable: Timetable, profile: NetworkProfile) -> None:
    """Refuse a latency below what the layers take that are not searched.

    Raises:
        InfeasibleBudget: With the least that is reachable, were the searched layers free.
    """
    limit = budget.limit_ms(timetable.network_ms)
    if limit is None:
        return
    fixed = max(timetable.network_ms - timetable.searched_ms, 0.0)
    if limit < fixed:
        share = fixed / timetable.network_ms
        kinds = ", ".join(sorted({layer.kind for layer in profile.layers if layer.reason}))
        raise InfeasibleBudget(
            f"the latency must leave {fixed:.3g} ms ({share:.4f} of the dense network) for "
            f"what is not searched ({f'{kinds}, ' if kinds else ''}everything without a weight), "
            f"got {budget}; raise the budget or search more layers with `include`."
        )
