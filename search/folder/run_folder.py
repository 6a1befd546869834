"""The folder of a run: settings, profile, study, candidates, front and plan, all plain data."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.clock.timetable import Timetable
from search.folder.locks import JournalLock, drop_half_line
from sekron.budget import Budget
from sekron.forward import one_line
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.records import document, reading
from sekron.structures.families import FAMILIES
from sekron.structures.geometry import Geometry

FORMAT, VERSION = "sekron.run", 1

PACKAGES = ("sekron", "torch", "optuna", "fvcore", "numpy", "scipy")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a search was asked for; what decides its trials cannot change within a folder.

    Attributes:
        max_sequence_length: Most factors of a structure.
        families: Searched families.
        sampler: Name of the sampler.
        seed: Of the sampler.
        n_trials: Proposals per layer.
        include: Patterns of layers to search, or None.
        exclude: Patterns of layers to leave dense, or None.
        min_share: Share of FLOPs or parameters below which a layer is left dense.
        rank_multiple: Of which all ranks are multiples.
        storage: URL of the Optuna storage; None for the file in the folder.
        name: Prefix of the names of the studies.
        model: How the command line made the model; empty for a run from Python.
        weights: File of the model's weights; empty for none.
        input_shape: Of the example input; empty for a run from Python.
        calibrated: Whether errors are measured in metrics from data.
        budget: As given.
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
    model: str = ""
    weights: str = ""
    input_shape: tuple[int, ...] = ()
    calibrated: bool = False
    min_share: float = 0.0
    rank_multiple: int = 1
    budget: Budget = field(default_factory=Budget)


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


class RunFolder:
    """Reads and writes a run folder; every file is replaced whole, so a kill leaves no half.

    Args:
        path: Of the folder; made when something is written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "run.json").exists()

    def storage(self) -> BaseStorage:
        """Open the Optuna storage in the folder, a journal.

        Raises:
            ValueError: If the journal is damaged.
        """
        self._make()
        journal = self.path / "study.log"
        lock = FileLock(self.path / ".study.lock")
        drop_half_line(journal, lock)
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(lock)))
        except (ValueError, KeyError) as error:
            raise ValueError(
                f"{journal} must be the journal of a study, but is damaged ({error}); "
                "delete the folder and search again."
            ) from error

    def begin(self, settings: Settings, profile: NetworkProfile, digests: dict[str, str]) -> None:
        """Record what is searched; `check` comes before.

        Args:
            settings: Of this call.
            profile: Of the network.
            digests: Layer name -> digest of its weight.
        """
        self._make()
        document = {
            "format": FORMAT,
            "version": VERSION,
            "settings": asdict(settings),
            "profile": asdict(profile),
            "weights": digests,
            "versions": {name: version(name) for name in PACKAGES} | {"python": _python()},
        }
        self.write("run.json", json.dumps(document, indent=1) + "\n")

    def check(self, settings: Settings, profile: NetworkProfile, digests: dict[str, str]) -> None:
        """Check that what is searched is what was recorded, if anything was.

        Raises:
            ValueError: If the folder belongs to other settings or to another network; the first
                difference is named.
        """
        if self.exists():
            recorded, known, weights = self.read()
            for name in FIXED:
                before, now = getattr(recorded, name), getattr(settings, name)
                if before != now:
                    raise ValueError(
                        f"{self.path} was searched with {name}={before!r}, got {now!r}; "
                        "use the same, or another run folder."
                    )
            self._check_network(known, profile, weights, digests)

    def read(self) -> tuple[Settings, NetworkProfile, dict[str, str]]:
        """Return the settings, the profile and the digests of the weights.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the record is damaged; the message says where.
        """
        path = self.path / "run.json"
        if not path.exists():
            raise FileNotFoundError(f"{self.path} must be a run folder, but has no run.json.")
        with reading(str(path)):
            data = document(path.read_text(encoding="utf-8"), FORMAT, VERSION)
            record = _settings(data["settings"]), _profile(data["profile"]), dict(data["weights"])
            check_record(*record)
            return record

    def write(self, name: str, text: str) -> None:
        """Write a file of the folder in one step."""
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)

    def timetable(self) -> Timetable | None:
        """Return the recorded latencies, or None if there are none.

        Raises:
            ValueError: If they are damaged, or not of this network.
        """
        path = self.path / "latency.json"
        if not path.exists():
            return None
        text = path.read_text(encoding="utf-8", errors="replace")
        timetable = Timetable.from_json(text, str(path))
        missing = {layer.name for layer in self.read()[1].searched} - set(timetable.layers)
        if missing:
            raise ValueError(f"{path} is damaged: it has no layer {min(missing)!r}.")
        return timetable

    def write_timetable(self, timetable: Timetable) -> None:
        """Record the latencies."""
        self.write("latency.json", timetable.to_json() + "\n")

    def _make(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"the run {self.path} must be a folder, but it is a file.")
        self.path.mkdir(parents=True, exist_ok=True)

    def _check_network(
        self,
        known: NetworkProfile,
        profile: NetworkProfile,
        weights: dict[str, str],
        digests: dict[str, str],
    ) -> None:
        before = {layer.name: layer for layer in known.layers}
        now = {layer.name: layer for layer in profile.layers}
        for name in [*now, *before]:
            if before.get(name) != now.get(name):
                what = (
                    "another shape, input or choice"
                    if name in before and name in now
                    else ("no such layer " + ("before" if name in now else "now"))
                )
                raise ValueError(
                    f"{self.path} holds the search of another network: layer {name!r} has {what}; "
                    "use another run folder."
                )
        self.check_weights(weights, digests)

    def check_weights(self, recorded: dict[str, str], digests: dict[str, str]) -> None:
        """Refuse weights that are not those that were searched; the first layer is named.

        Args:
            recorded: Layer name -> digest, as `read` returns them.
            digests: The same of the network at hand.

        Raises:
            ValueError: If a digest differs.
        """
        for name, digest in digests.items():
            if recorded.get(name) != digest:
                raise ValueError(
                    f"{self.path} holds the search of another network: layer {name!r} has other "
                    "weights; use another run folder."
                )


def open_storage(url: str) -> BaseStorage:
    """Open an Optuna storage by its URL.

    Raises:
        ValueError: If it cannot be opened.
    """
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever the driver of that database raises
        raise ValueError(f"the storage {url} must open, but it raised {one_line(error)}") from error


def check_record(settings: Settings, profile: NetworkProfile, weights: dict[str, str]) -> None:
    """Raise a ValueError about the first thing in a record that cannot be."""
    unknown = set(settings.families) - set(FAMILIES)
    if unknown:
        raise ValueError(f"families has {', '.join(unknown)}")
    for name in ("flops", "params"):
        if not isinstance(getattr(profile, name), int):
            raise TypeError(f"{name} of the network is {getattr(profile, name)!r}")
    for layer in profile.searched:
        if prod(layer.weight_shape) != layer.params or len(layer.weight_shape) < 2:
            raise ValueError(f"layer {layer.name!r} has weight_shape {layer.weight_shape}")
        if not layer.calls:
            raise ValueError(f"layer {layer.name!r} has no calls")
        if layer.name not in weights:
            raise ValueError(f"weights has no layer {layer.name!r}")


def _settings(data: dict[str, Any]) -> Settings:
    lists = ("families", "include", "exclude", "input_shape")
    typed: dict[str, Any] = {
        k: tuple(v) if k in lists and v is not None else v for k, v in data.items()
    }
    return Settings(**{**typed, "budget": Budget(**data["budget"])})


def _profile(data: dict[str, Any]) -> NetworkProfile:
    layers = []
    for layer in data["layers"]:
        calls = tuple(map(_geometry, layer["calls"]))
        shape = tuple(layer["weight_shape"])
        layers.append(LayerProfile(**{**layer, "calls": calls, "weight_shape": shape}))
    return NetworkProfile(**{**data, "layers": tuple(layers)})


def _geometry(data: dict[str, Any]) -> Geometry:
    sizes = {name: tuple(size) for name, size in data.items() if name != "groups"}
    return Geometry(**sizes, groups=int(data.get("groups", 1)))


def _python() -> str:
    return platform.python_version()
