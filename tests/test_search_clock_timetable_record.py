"""A timetable as text: read back as it was, refused where it is damaged, with the place in it."""

import json
import math

import pytest

from search.clock.times import Effort, LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Timetable
from search.clock.timetable_record import from_json, to_json
from sekron.layers.operations import Form
from sekron.network.plan import Plan
from sekron.structures.structure import Structure
from tests.unsealed import unsealed

SETTING = Setting("a processor", 1, "2.9", "torch.float32", "contiguous", ((2, 10, 13, 11),))
SPLIT = ("sekron", ((3, 5, 3, 1), (4, 2, 1, 3)))
LONG = ("sekron", ((3, 5, 3, 1), (2, 2, 1, 1), (2, 1, 1, 3)))
PLAN = Plan({"body.3": Structure(*SPLIT, (4,))}, {"body.3": Form((0, 1), True)})


@pytest.fixture
def full():
    layers = {"body.3": LayerTime("key", 4.0), "head": LayerTime("Linear on (2, 3)", 0.1)}
    times = TimedPoint(Form((0, 1), True), {(4,): 0.5, (2,): 0.375})
    return (
        Timetable(SETTING, 10.0, layers)
        .with_point("key", SPLIT, times)
        .with_point("Linear on (2, 3)", LONG, TimedPoint(Form(), {(2, 3): 1 / 3, (1, 1): 0.1}))
        .with_network(PLAN, NetworkTime(0.75, 0.3, 1.5, 4, 0.74, 0.77))
        .with_winner("question", PLAN, Effort(30.0, 4))
    )


def test_as_text_and_back(full):
    text = to_json(full)
    assert from_json(text, "latency.json") == full
    assert to_json(from_json(text, "latency.json")) == text


def test_what_was_not_timed_stays_unknown(full):
    full = full.with_network(Plan({}), NetworkTime(1.0, math.nan, 1.0, 0))
    again = from_json(to_json(full), "latency.json").of(Plan({}))
    assert (again.ratio, again.n_layers) == (1.0, 0)
    assert math.isnan(again.saved)


def test_what_was_written_before_intervals_can_be_read(full):
    document = unsealed(to_json(full))
    document["version"] = 3
    del document["waited"]
    for time in document["networks"].values():
        del time["low"], time["high"]
    again = from_json(json.dumps(document), "latency.json")
    assert again.of(PLAN).ratio == 0.75
    assert again.of(PLAN).is_sure
    assert math.isnan(again.of(PLAN).low)


def changed(*path, to):
    def change(document):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return change


DAMAGES = {
    "no-timed": (lambda d: d.pop("timed"), "required field `timed`"),
    "no-shapes": (lambda d: d["setting"].pop("input_shapes"), r"`input_shapes` - at `\$\.setting`"),
    "no-threads": (changed("setting", "threads", to=0), r"`int` >= 1 - at `\$\.setting\.threads`"),
    "network": (changed("network_ms", to="fast"), r"got `str` - at `\$\.network_ms`"),
    "layers": (changed("layers", to=[1]), r"got `array` - at `\$\.layers`"),
    "layer": (changed("layers", "head", to=None), r"got `null` - at `\$\.layers\[...\]`"),
    "networks": (changed("networks", "x", to={"ratio": 0.5}), "required field `saved`"),
    "structure": (changed("timed", 0, "structure", to="chain:3"), r"at `\$\.timed\[0\]`"),
    "rank": (changed("timed", 0, "ranks", 0, to=["x"]), r"at `\$\.timed\[0\]\.ranks\[0\]\[0\]`"),
    "rank-range": (changed("timed", 0, "ranks", 0, to=[99]), r"rank 1 .* at `\$\.timed\[0\]`"),
    "no-ratios": (changed("timed", 0, "ratios", to=[]), "2 ranks, 0 ratios"),
    "no-ranks": (changed("timed", 0, "ranks", to=[]), "of length >= 1"),
    "no-time": (changed("network_ms", to=0), r"`float` > 0.0 - at `\$\.network_ms`"),
    "order-twice": (changed("timed", 0, "order", to=[0, 0]), "has order"),
    "ratio": (changed("timed", 0, "ratios", 0, to="slow"), r"at `\$\.timed\[0\]\.ratios\[0\]`"),
    "key": (changed("layers", "head", "key", to="x"), r"no layer has the key .* `\$\.timed\[1\]`"),
    "timed-key": (changed("timed", 0, "layers", to="x"), r"no layer has the key 'x' .*timed\[0\]`"),
    "winner": (changed("winners", "question", "layers", to={"a": "x"}), "a structure reads"),
}


@pytest.mark.parametrize(("damage", "reason"), [*DAMAGES.values()], ids=[*DAMAGES])
def test_a_damaged_file_is_named(full, damage, reason):
    document = unsealed(to_json(full))
    damage(document)
    with pytest.raises(ValueError, match=rf"^some/latency\.json.*{reason}"):
        from_json(json.dumps(document), "some/latency.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[1, 2]", '"text"'])
def test_what_is_no_timetable_is_refused(text):
    with pytest.raises(ValueError, match=r"^some/latency.json is damaged: "):
        from_json(text, "some/latency.json")


def test_half_a_file_is_refused(full):
    text = to_json(full)
    with pytest.raises(ValueError, match=r"^half is damaged: "):
        from_json(text[: len(text) // 2], "half")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "sekron.run", "must be 'sekron.latency', but is 'sekron.run'"),
        ("version", 2, "must have version 3 or 4 or 5 or 6 or 7, got 2; use the release"),
    ],
)
def test_another_format_or_version_is_named(full, field, value, message):
    document = unsealed(to_json(full)) | {field: value}
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(document), "latency.json")
