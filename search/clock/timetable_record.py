"""A timetable as JSON."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated

import msgspec
from msgspec import Meta

from search.clock.race import EAGER
from search.clock.times import Effort, LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Timetable
from sekron.layers.operations import Form
from sekron.network.plan import Plan, PlanRecord
from sekron.records import QUOTED, Count, NotNegative, Positive, Size, decode, encode
from sekron.structures.families import Point
from sekron.structures.structure import Structure

FORMAT, VERSION = "sekron.latency", 7


class _Setting(msgspec.Struct, omit_defaults=True):
    device: str
    threads: Size
    torch: str
    dtype: str
    layout: str
    input_shapes: tuple[tuple[Size, ...], ...]
    runtime: str = EAGER
    runtime_version: str = ""


class _LayerTime(msgspec.Struct):
    key: str
    dense_ms: Positive
    low_ms: Positive | None = None  # as are all of version 4
    high_ms: Positive | None = None


class _Timed(msgspec.Struct):
    layers: str
    structure: str
    order: tuple[int, ...] | None
    matmul: bool
    ranks: Annotated[list[tuple[Size, ...]], Meta(min_length=1)]
    ratios: list[Positive | None]  # nothing where the runtime does not take it
    ends: list[tuple[Positive, Positive] | None] | None = None  # as in version 4


class _NetworkTime(msgspec.Struct):
    ratio: Positive | None
    saved: float | None
    activations: Positive | None  # a number in all of version 6
    n_layers: Count
    low: Positive | None = None  # as are all of version 3
    high: Positive | None = None
    is_confirmed: bool = False  # as are all of version 4


class _Timetable(msgspec.Struct):
    setting: _Setting
    network_ms: Positive
    layers: dict[str, _LayerTime]
    timed: list[_Timed]
    networks: dict[str, _NetworkTime]
    winners: dict[str, PlanRecord]
    waited: NotNegative = 0.0  # as in version 3
    spread: NotNegative = 0.0  # as what follows, as in version 4
    network_low_ms: Positive | None = None
    network_high_ms: Positive | None = None
    efforts: dict[str, tuple[NotNegative | None, Count]] | None = None  # as in version 5
    ready_seconds: NotNegative = 0.0  # as in version 6


def to_json(timetable: Timetable) -> str:
    """Return a timetable as text, without what is refused for now alone."""
    timetable = timetable.lasting
    timed = [
        _Timed(
            key,
            str(Structure(family, shapes, next(iter(times.ratios)))),
            times.form.order,
            times.form.matmul,
            list(times.ratios),
            [_known(ratio) for ratio in times.ratios.values()],
            [times.ends.get(ranks) for ranks in times.ratios],
        )
        for key, points in timetable.timed.items()
        for (family, shapes), times in points.items()
    ]
    networks = {
        digest: _NetworkTime(
            _known(time.ratio),
            _known(time.saved),
            _known(time.activations),
            time.n_layers,
            _known(time.low),
            _known(time.high),
            time.is_confirmed,
        )
        for digest, time in timetable.networks.items()
    }
    record = _Timetable(
        msgspec.convert(timetable.setting, _Setting, from_attributes=True),
        timetable.network_ms,
        {
            name: _LayerTime(time.key, time.dense_ms, _known(time.low_ms), _known(time.high_ms))
            for name, time in timetable.layers.items()
        },
        timed,
        networks,
        {question: plan.to_record() for question, plan in timetable.winners.items()},
        timetable.waited,
        timetable.spread,
        _known(timetable.network_low_ms),
        _known(timetable.network_high_ms),
        {
            question: (_known(effort.seconds), effort.trials)
            for question, effort in timetable.efforts.items()
        },
        timetable.ready_seconds,
    )
    return encode(record, FORMAT, VERSION, is_sealed=True)


def from_json(text: str | bytes, source: str) -> Timetable:
    """Read what `to_json` wrote.

    Raises:
        ValueError: If it is damaged; the message names `source`.
    """
    record = decode(text, _Timetable, FORMAT, (3, 4, 5, 6, VERSION), source)
    winners = {
        question: Plan.from_record(plan, f"{source}, a winner")
        for question, plan in record.winners.items()
    }
    timetable = Timetable(
        Setting(**msgspec.structs.asdict(record.setting)),
        record.network_ms,
        {
            name: LayerTime(time.key, time.dense_ms, _number(time.low_ms), _number(time.high_ms))
            for name, time in record.layers.items()
        },
        networks={
            digest: NetworkTime(
                math.inf if time.ratio is None else time.ratio,
                _number(time.saved),
                _number(time.activations),
                time.n_layers,
                _number(time.low),
                _number(time.high),
                time.is_confirmed,
            )
            for digest, time in record.networks.items()
        },
        winners=winners,
        waited=record.waited,
        spread=record.spread,
        network_low_ms=_number(record.network_low_ms),
        network_high_ms=_number(record.network_high_ms),
        efforts={
            question: Effort(math.inf if seconds is None else seconds, trials)
            for question, (seconds, trials) in (record.efforts or {}).items()
        },
        ready_seconds=record.ready_seconds,
    )
    keys = {time.key for time in record.layers.values()}
    for index, entry in enumerate(record.timed):
        try:
            if entry.layers not in keys:
                raise ValueError(f"no layer has the key {entry.layers[:QUOTED]!r}")
            point, times = _timed(entry)
        except ValueError as error:
            raise ValueError(f"{source} is damaged: {error} - at `$.timed[{index}]`.") from error
        timetable = timetable.with_point(entry.layers, point, times)
    return timetable


def _known(value: float) -> float | None:
    """Return a number for JSON, which has finite ones alone."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _timed(entry: _Timed) -> tuple[Point, TimedPoint]:
    structure = Structure.parse(entry.structure)
    family, shapes = structure.family, structure.shapes
    if entry.order is not None and sorted(entry.order) != list(range(len(shapes))):
        raise ValueError(f"{structure} has order {entry.order}")
    if len(entry.ranks) != len(entry.ratios):
        raise ValueError(f"{structure} has {len(entry.ranks)} ranks, {len(entry.ratios)} ratios")
    all_ends = [None] * len(entry.ranks) if entry.ends is None else entry.ends
    if len(all_ends) != len(entry.ranks):
        raise ValueError(f"{structure} has {len(entry.ranks)} ranks, {len(all_ends)} intervals")
    times = TimedPoint(Form(entry.order, entry.matmul))
    for given, ratio, ends in zip(entry.ranks, entry.ratios, all_ends, strict=True):
        ranks = Structure(family, shapes, given).ranks
        times = replace(times, ratios={**times.ratios, ranks: math.inf if ratio is None else ratio})
        if ends is not None:
            times = replace(times, ends={**times.ends, ranks: ends})
    return (family, shapes), times
