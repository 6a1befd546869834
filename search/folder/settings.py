"""What a search was asked for, as its folder records it."""

from __future__ import annotations

from dataclasses import dataclass, field

from search.clock.race import EAGER
from search.folder.input_spec import InputSpec
from search.per_layer.samplers import SAMPLERS
from sekron.budget import Budget
from sekron.export.runtimes import RUNTIMES
from sekron.records import short
from sekron.structures.families import FAMILIES
from sekron.structures.structure import LARGEST

LONGEST = 8
"""Factors of a structure in a search: its space, and what a layer runs, grow steeply with them."""

MOST_TRIALS = 10**9
"""Proposals per layer, or trials of whole networks."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a search was asked for; what decides its trials cannot change within a folder.

    Attributes:
        max_sequence_length: Most factors of a structure.
        families: Searched families.
        sampler: Name of the sampler.
        seed: Of the sampler.
        n_trials: Proposals per layer, at most.
        include: Patterns of layers to search, or None.
        exclude: Patterns of layers to leave dense, or None.
        storage: URL of the Optuna storage, without a password; None for the file in the folder.
        name: Prefix of the names of the studies.
        calibrated: Whether errors are measured in metrics from data.
        min_share: Share of FLOPs or parameters below which a layer is left dense.
        rank_multiple: Of which all ranks are multiples.
        budget: As given.
        is_timed: Whether the clock was looked at.
        is_scored: Whether networks were scored.
        n_network_trials: Trials of whole networks, where latency is limited or there is a score.
        runtime: That ran what was timed.

    Raises:
        ValueError: If one is out of range.
    """

    max_sequence_length: int
    families: tuple[str, ...]
    sampler: str
    seed: int
    n_trials: int
    include: tuple[str, ...] | None
    exclude: tuple[str, ...] | None
    storage: str | None
    name: str
    calibrated: bool = False
    min_share: float = 0.0
    rank_multiple: int = 1
    budget: Budget = field(default_factory=Budget)
    is_timed: bool = False
    is_scored: bool = False
    n_network_trials: int = 30
    runtime: str = EAGER

    def __post_init__(self) -> None:
        ranges = {
            "n_trials": (0, MOST_TRIALS),
            "n_network_trials": (0, MOST_TRIALS),
            "seed": (-(2**63), 2**63 - 1),
            "max_sequence_length": (2, LONGEST),
            "rank_multiple": (1, LARGEST),
        }
        for name, (least, most) in ranges.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")
            if getattr(self, name) > most:
                raise ValueError(f"`{name}` must be at most {most}, got {getattr(self, name)}.")
        families = self.families
        if not families or set(families) - set(FAMILIES) or len(set(families)) < len(families):
            raise ValueError(
                f"`families` must be some of {', '.join(FAMILIES)}, got {short(str(families))}."
            )
        if self.runtime not in RUNTIMES:
            raise ValueError(
                f"`runtime` must be one of {', '.join(RUNTIMES)}, got {short(self.runtime)!r}."
            )
        if self.sampler not in SAMPLERS:
            raise ValueError(
                f"`sampler` must be one of {', '.join(SAMPLERS)}, got {short(self.sampler)!r}."
            )


FIXED = (
    "max_sequence_length",
    "families",
    "sampler",
    "seed",
    "storage",
    "name",
    "calibrated",
    "rank_multiple",
)
"""Settings that must be the same whenever a folder is used again."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the command line got a network from.

    Attributes:
        model: `module:attribute`; empty for a run from Python.
        weights: File of the model's weights; empty for none.
        inputs: Of the example, in order.

    Raises:
        ValueError: If two inputs have one name.
    """

    model: str = ""
    weights: str = ""
    inputs: tuple[InputSpec, ...] = ()

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.inputs if spec.name]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"the name of an input must stand once, got {min(twice)!r} again.")
