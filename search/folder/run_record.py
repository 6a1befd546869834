"""The record of a run: settings, profile, digests of the weights and of the metric, versions."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from importlib.metadata import version

from search.folder.profile_check import check_profile
from search.folder.settings import FIXED, Settings, Source
from sekron.profiling.network_profile import NetworkProfile
from sekron.records import decode, encode

FORMAT, VERSION = "sekron.run", 2

PACKAGES = ("sekron", "torch", "optuna", "fvcore", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run folder says of its search.

    Attributes:
        settings: Of the search.
        profile: Of the network.
        weights: Layer name -> digest of its weight, for the searched layers.
        metric: Digest of the metric of the search; nothing for the plain norm.
        source: Where the command line got the network from.
        versions: Package -> version that searched last.
    """

    settings: Settings
    profile: NetworkProfile
    weights: dict[str, str]
    metric: str = ""
    source: Source = field(default_factory=Source)
    versions: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the record as text."""
        return encode(self, FORMAT, VERSION)

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> RunRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it is damaged; the message names `source` and says where.
        """
        record = decode(text, cls, FORMAT, (VERSION,), source)
        try:
            record.check()
        except ValueError as error:
            raise ValueError(f"{source} is damaged: {error}.") from error
        return record

    def check(self) -> None:
        """Raise a ValueError about the first thing that cannot be."""
        check_profile(self.profile)
        if set(self.weights) != {layer.name for layer in self.profile.searched}:
            different = set(self.weights) ^ {layer.name for layer in self.profile.searched}
            raise ValueError(f"weights and profile differ in layer {min(different)!r}")

    def check_same(self, settings: Settings, profile: NetworkProfile) -> None:
        """Refuse another search, or one of another network; the first difference is named.

        Raises:
            ValueError: If there is one.
        """
        for name in FIXED:
            before, now = getattr(self.settings, name), getattr(settings, name)
            if before != now:
                raise ValueError(f"was searched with {name}={before!r}, got {now!r}; use the same")
        recorded = {layer.name: layer for layer in self.profile.layers}
        layers = {layer.name: layer for layer in profile.layers}
        for name in [*layers, *recorded]:
            if recorded.get(name) != layers.get(name):
                if name in recorded and name in layers:
                    difference = "another shape, input or choice"
                else:
                    difference = "no such layer " + ("before" if name in layers else "now")
                raise ValueError(
                    f"holds the search of another network: layer {name!r} has {difference}; use "
                    "the same"
                )

    def check_weights(self, digests: dict[str, str]) -> None:
        """Refuse weights that are not those that were searched; the first layer is named.

        Args:
            digests: Layer name -> digest of its weight.

        Raises:
            ValueError: If one differs.
        """
        for name, digest in digests.items():
            if self.weights.get(name) != digest:
                raise ValueError(
                    f"holds the search of another network: layer {name!r} has other weights; use "
                    "the same"
                )


def versions() -> dict[str, str]:
    """Return package -> version, of those that decide what a search finds."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}
