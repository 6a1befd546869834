"""Records: whole or not at all, and an error that names the file and the place in it."""

import os
from pathlib import Path

import msgspec
import pytest

from sekron.records import Count, Positive, Size, decode, encode, read_text, replacing, write_text


class Inner(msgspec.Struct):
    size: Size
    ratio: Positive


class Outer(msgspec.Struct):
    inner: dict[str, Inner]
    count: Count = 0


RECORD = Outer({"a": Inner(3, 0.25)}, 7)
TEXT = encode(RECORD, "sekron.test", 4)


def test_a_record_is_read_as_it_was_written():
    assert decode(TEXT, Outer, "sekron.test", (3, 4), "it") == RECORD
    assert decode(TEXT.encode(), Outer, "sekron.test", (4,), "it") == RECORD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            TEXT.replace("0.25", "-1"),
            r"it is damaged: Expected `float` > 0.0 - at `\$\.inner.*",
        ),
        (TEXT.replace("0.25", "1e400"), "it is damaged: "),
        (TEXT.replace("0.25", "NaN"), "it is damaged: JSON is malformed"),
        (TEXT.replace("0.25", '"x"'), "it is damaged: Expected `float`, got `str`"),
        (TEXT.replace(" 3", " 0"), r"it is damaged: Expected `int` >= 1 - at `\$\.inner.*size`"),
        (TEXT.replace(" 3", f" {2**63}"), r"it is damaged: .* at `\$\.inner"),
        (TEXT.replace(" 7", " -7"), r"it is damaged: Expected `int` >= 0 - at `\$\.count`"),
        (TEXT.replace("sekron.test", "x" * 10**6), "it must be 'sekron.test', but is 'xxx.*…'"),
        (TEXT.replace('"version": 4', '"version": 5'), "it must have version 3 or 4, got 5; use"),
        ("[" * 200_000, "it is damaged: "),
        ('{"format": "sekron.test", "version": 4, "inner": ' + "[" * 200_000, "it is damaged: "),
        (b'{"format": "\xff"}', "it is damaged: "),
        (TEXT.replace('"a"', r'"\ud800"'), "it is damaged: "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_is_one_short_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        decode(text, Outer, "sekron.test", (3, 4), "it")
    assert len(str(caught.value)) < 500
    assert "\n" not in str(caught.value)


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "record.json"
    write_text(path, "first")

    def interrupted():
        with replacing(path) as partial:
            partial.write_text("half")
            assert path.read_text() == "first"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("record.json", "first")
    ]


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"could not be written: No such .*no/such\.json'"):
        write_text(tmp_path / "no" / "such.json", "text")

    def filled():
        with replacing(tmp_path / "record.json") as partial:
            partial.write_text("half")
            raise OSError(28, "full")

    with pytest.raises(OSError, match=r"could not be written: full.*record\.json'") as caught:
        filled()
    assert caught.value.errno == 28
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stands_there", ["pipe", "link to a pipe"])
def test_only_a_file_is_replaced(tmp_path, stands_there):
    path = pipe = tmp_path / "record.json"
    if stands_there == "link to a pipe":
        pipe = tmp_path / "pipe"
        path.symlink_to(pipe)
    os.mkfifo(pipe)
    with pytest.raises(OSError, match=r"record\.json must be a file, but is something else"):
        write_text(path, "text")
    assert pipe.is_fifo()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, pipe.name}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "record.json")
    with pytest.raises(ValueError, match=r"record\.json must be a file, but is something else"):
        read_text(tmp_path / "record.json")
    with pytest.raises(FileNotFoundError):
        read_text(Path(tmp_path / "none"))


class Measured(msgspec.Struct):
    ms: float
    ranks: dict[str, list[int]]


@pytest.mark.parametrize(
    ("before", "after"), [("1.25", "1.75"), ("12\n", "13\n"), ('"checksum": "', '"checksum": "0')]
)
def test_a_changed_digit_of_what_is_sealed_is_damage(before, after):
    record = Measured(1.25, {"a": [12]})
    text = encode(record, "test", 1, is_sealed=True)
    assert decode(text, Measured, "test", (1,), "times.json") == record
    assert text.count(before) == 1
    with pytest.raises(ValueError, match=r"^times\.json is damaged: it does not have its checksum"):
        decode(text.replace(before, after), Measured, "test", (1,), "times.json")


def test_what_has_no_checksum_is_read_as_earlier_releases_wrote_it():
    record = Measured(1.25, {"a": [12]})
    assert decode(encode(record, "test", 1), Measured, "test", (1,), "times.json") == record
