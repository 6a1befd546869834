"""What the clock said of layers, candidates and networks, and what follows for the others."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from sekron.layers.operations import DEFAULT, Form
from sekron.network.plan import Plan
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.table import CandidateTable
from sekron.records import document, reading
from sekron.structures.families import FAMILIES, Point
from sekron.structures.flops import flops_of_ranks
from sekron.structures.structure import Structure

FORMAT, VERSION = "sekron.latency", 2

LEAST_REALIZED, UNLIKELY = 0.5, 0.01
"""Networks that save a smaller share have an overhead; the weight of the belief in none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a latency depends on besides the network; latencies of two settings never mix.

    Attributes:
        device: Name of the processor.
        threads: Of torch.
        torch: Version.
        dtype: Of the weights.
        layout: `contiguous` or `channels_last`, of the example input.
        input_shapes: Of the example input, the batch included.
    """

    device: str
    threads: int
    torch: str
    dtype: str
    layout: str
    input_shapes: tuple[tuple[int, ...], ...]

    def difference(self, here: Setting) -> str:
        """Return the first field that differs, with both values; nothing if none does."""
        for name, value in asdict(self).items():
            if value != getattr(here, name):
                return f"{name} {value} there, {getattr(here, name)} here"
        return ""


@dataclass(frozen=True, slots=True)
class LayerTime:
    """The dense layer inside its network.

    Attributes:
        key: The module and its inputs; layers of equal key take equally long.
        dense_ms: Milliseconds of all its calls.
    """

    key: str
    dense_ms: float


@dataclass(slots=True)
class TimedPoint:
    """One structure at some ranks on the clock.

    Attributes:
        form: How it ran: the fastest of its forms.
        ratios: Ranks -> its time over the dense layer's, timed in turn.
    """

    form: Form
    ratios: dict[tuple[int, ...], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NetworkTime:
    """One compressed network on the clock, in turn with the dense one.

    Attributes:
        ratio: Its time over the dense network's.
        saved: Share of the dense network's time that its layers, timed alone, save; NaN where
            some were not timed.
        activations: Its peak activation memory over the dense network's.
        n_layers: Layers that are replaced in it.
    """

    ratio: float
    saved: float
    activations: float
    n_layers: int


@dataclass(frozen=True, slots=True)
class Effect:
    """What becomes of the time that layers save alone, inside a network.

    Attributes:
        realized: Share of it that a network saves.
        overhead: What every replaced layer costs besides, as a share of the dense network's time.
    """

    realized: float
    overhead: float

    def ratio(self, saved: float, n_layers: int) -> float:
        """Return the time of a network over the dense one's."""
        return 1.0 - self.realized * saved + self.overhead * n_layers


@dataclass(frozen=True, slots=True)
class Estimate:
    """The candidates of a layer as the clock sees them, one row per row of its table.

    Attributes:
        ratios: Time over the dense layer's, NaN where nothing like it was timed.
        flops: Multiply-adds in the form that it runs in.
        forms: That form.
    """

    ratios: Floats
    flops: NDArray[np.int64]
    forms: list[Form]


@dataclass(slots=True)
class Timetable:
    """All latencies of a search, in one setting.

    Attributes:
        setting: Where they were measured.
        network_ms: Of the dense network.
        layers: Layer name -> time of the dense layer.
        timed: Key of a layer -> the structures that were timed.
        networks: Plan as JSON -> time of that network.
        winners: `SearchResult.key` -> plan as JSON that was measured to hold that budget.
    """

    setting: Setting
    network_ms: float
    layers: dict[str, LayerTime]
    timed: dict[str, dict[Point, TimedPoint]] = field(default_factory=dict)
    networks: dict[str, NetworkTime] = field(default_factory=dict)
    winners: dict[str, str] = field(default_factory=dict)

    @property
    def searched_ms(self) -> float:
        """Time of the dense layers that can be replaced."""
        return sum(layer.dense_ms for layer in self.layers.values())

    def effect(self) -> Effect:
        """Return what the networks measured so far say, by bounded least squares."""
        known = [n for n in self.networks.values() if n.saved > 0]
        if not known:
            return Effect(1.0, 0.0)
        saved = np.array([n.saved for n in known])
        n_layers = np.array([n.n_layers for n in known])
        gains = np.array([1.0 - n.ratio for n in known])
        # Where both would explain the same, the layers realized less and cost nothing.
        rows = np.vstack([np.stack([saved, -n_layers], axis=1), [0.0, UNLIKELY]])
        fitted = lsq_linear(rows, np.append(gains, 0.0), ([LEAST_REALIZED, 0.0], [2.0, np.inf]))
        return Effect(float(fitted.x[0]), float(fitted.x[1]))

    @property
    def overhead_ms(self) -> float:
        """What a replaced layer costs its network besides, in milliseconds that layers save."""
        effect = self.effect()
        return effect.overhead / effect.realized * self.network_ms

    def point(self, name: str, point: Point) -> TimedPoint | None:
        """Return what is known of a structure in a layer."""
        return self.timed.get(self.layers[name].key, {}).get(point)

    def estimate(self, layer: LayerProfile, table: CandidateTable) -> Estimate:
        """Return the times of a layer's candidates.

        One that was not timed itself lies, in FLOPs and so in time, between others of the same
        structure with other ranks.
        """
        ratios, flops = np.full(len(table), np.nan), table.flops.copy()
        forms = [DEFAULT] * len(table)
        for index, (family, shapes) in enumerate(table.points):
            known = self.point(layer.name, (family, shapes))
            rows = np.flatnonzero(table.point == index)
            if known is None or len(rows) == 0:
                continue
            timed = np.array(list(known.ratios), dtype=np.int64)
            ranks = np.array([table.ranks[row] for row in rows], dtype=np.int64)
            at, flops[rows] = (
                sum(
                    flops_of_ranks(shapes, FAMILIES[family](len(shapes)), r, g, known.form.order)
                    for g in layer.calls
                )
                for r in (timed, ranks)
            )
            ratios[rows] = _between(at, np.array(list(known.ratios.values())), flops[rows])
            for row in rows:
                forms[row] = known.form
                ratios[row] = known.ratios.get(table.ranks[row], ratios[row])
        return Estimate(ratios, flops, forms)

    def to_json(self) -> str:
        """Return the timetable as text."""
        timed = [
            {
                "layers": key,
                "structure": str(Structure(family, shapes, next(iter(point.ratios)))),
                **asdict(point.form),
                "ranks": list(point.ratios),
                "ratios": list(point.ratios.values()),
            }
            for key, points in self.timed.items()
            for (family, shapes), point in points.items()
        ]
        document = {
            "format": FORMAT,
            "version": VERSION,
            "setting": asdict(self.setting),
            "network_ms": self.network_ms,
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "timed": timed,
            "networks": {plan: asdict(time) for plan, time in self.networks.items()},
            "winners": self.winners,
        }
        return json.dumps(document, indent=1)

    @classmethod
    def from_json(cls, text: str, source: str) -> Timetable:
        """Read what `to_json` wrote.

        Raises:
            ValueError: If it is damaged; the message names `source`.
        """
        with reading(source):
            data = document(text, FORMAT, VERSION)
            shapes = tuple(tuple(map(int, shape)) for shape in data["setting"]["input_shapes"])
            table = cls(
                Setting(**{**data["setting"], "input_shapes": shapes}),
                _positive(data["network_ms"]),
                {
                    name: LayerTime(str(layer["key"]), _positive(layer["dense_ms"]))
                    for name, layer in data["layers"].items()
                },
                networks={
                    plan: NetworkTime(
                        _positive(time["ratio"]),
                        float(time["saved"]),
                        float(time["activations"]),
                        int(time["n_layers"]),
                    )
                    for plan, time in data["networks"].items()
                },
                winners={str(key): str(plan) for key, plan in data["winners"].items()},
            )
            for plan in table.winners.values():
                Plan.from_json(plan)
            for entry in data["timed"]:
                point, timed = _timed(entry)
                table.timed.setdefault(entry["layers"], {})[point] = timed
            return table


def _timed(entry: Any) -> tuple[Point, TimedPoint]:
    structure = Structure.parse(entry["structure"])
    family, shapes = structure.family, structure.shapes
    order = None if entry["order"] is None else tuple(entry["order"])
    if order is not None and sorted(order) != list(range(len(shapes))):
        raise ValueError(f"{structure} has order {order}")
    pairs = zip(entry["ranks"], entry["ratios"], strict=True)
    ratios = {Structure(family, shapes, r).ranks: _positive(ratio) for r, ratio in pairs}
    if not ratios:
        raise ValueError(f"{structure} has no ratios")
    return (family, shapes), TimedPoint(Form(order, bool(entry["matmul"])), ratios)


def _positive(value: Any) -> float:
    if not 0.0 < float(value) < float("inf"):
        raise ValueError(f"a time is {value!r}")
    return float(value)


def _between(flops: Any, ratios: Floats, wanted: NDArray[np.int64]) -> Floats:
    """Interpolate in FLOPs; beyond the most, time grows with them, below the least, it stays."""
    order = np.argsort(flops)
    x, y = np.asarray(flops, dtype=float)[order], ratios[order]
    return np.asarray(np.interp(wanted, x, y) * np.maximum(wanted / x[-1], 1.0))
