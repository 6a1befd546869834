"""A damaged trial is refused, whatever number in it was changed, and never another plan."""

import json
import math
import shutil

import pytest

import search
from search.folder.run_folder import JOURNAL


def changed(copied, change, is_old=False):
    """Change every trial of a journal, without checksums as of old or with them."""
    path = copied / JOURNAL
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    if is_old:
        lines = [line for line in lines if "checksum" not in line.get("user_attr", {})]
    for line in lines:
        if is_old:
            line.get("user_attrs", {}).pop("checksum", None)
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def first(name, value):
    """Change the first number of an attribute in the first template."""

    def change(line):
        attributes = line.get("user_attrs") or {}
        if attributes.get(name):
            attributes[name][0] = value(attributes[name][0])

    return change


def of_line(name, value):
    def change(line):
        if "user_attrs" in line:
            line[name] = value

    return change


@pytest.fixture
def copied(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


IMPOSSIBLE = {
    "error nan": first("errors", lambda _: math.nan),
    "error inf": first("errors", lambda _: math.inf),
    "error negative": first("errors", lambda e: -e - 1e-3),
    "error text": first("errors", lambda _: "x"),
    "error list": first("errors", lambda _: [1.0]),
    "error huge": first("errors", lambda _: 1e9),
    "rank 9999": first("ranks", lambda row: [9999] * len(row)),
    "rank 1.5": first("ranks", lambda row: [1.5] * len(row)),
    "rank 0": first("ranks", lambda row: [0] * len(row)),
    "rank huge": first("ranks", lambda row: [10**30] * len(row)),
    "ranks more": first("ranks", lambda row: [*row, 1]),
    "ranks none": first("ranks", lambda _: 3),
    "no ranks": lambda line: line.get("user_attrs", {}).pop("ranks", None),
    "values nan": of_line("values", [math.nan, 0.5]),
    "values text": of_line("values", ["x", "y"]),
    "values one": of_line("values", [0.5]),
    "values large": of_line("values", [0.5, 2.0]),
}


@pytest.mark.parametrize("is_old", [False, True], ids=["checksum", "none"])
@pytest.mark.parametrize("damage", IMPOSSIBLE)
def test_what_cannot_be_is_refused(copied, damage, is_old):
    changed(copied, IMPOSSIBLE[damage], is_old)
    with pytest.raises(ValueError, match=r"is damaged: |but is damaged \(") as caught:
        search.load(copied)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "change",
    [
        first("errors", lambda _: 0.0),
        first("errors", lambda error: error * (1 - 1e-15) + 1e-16),
        first("ranks", lambda row: [1] * len(row) if row != [1] else [2]),
        of_line("values", [0.5, 0.5]),
    ],
    ids=["no error", "last digit", "rank", "values"],
)
def test_what_could_be_does_not_have_its_checksum(copied, change):
    changed(copied, change)
    with pytest.raises(ValueError, match=r"trial \d+ of the study '.*' is damaged: .*checksum"):
        search.load(copied)


def test_trials_of_old_without_checksums_are_read(copied, small_run):
    changed(copied, lambda _: None, is_old=True)
    assert "checksum" not in (copied / JOURNAL).read_text()
    assert search.load(copied).candidates().equals(search.load(small_run).candidates())


@pytest.mark.parametrize("value", [-1, 10**6, 10**30, 0.5, "x"])
def test_parameters_that_are_none_are_refused(copied, value):
    text = (copied / JOURNAL).read_text().splitlines()
    lines = [json.loads(line) for line in text]
    for line in lines:
        if "user_attrs" in line:
            line["params"] = dict.fromkeys(line["params"], value)
    (copied / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=r"is damaged"):
        search.load(copied)


@pytest.mark.parametrize("length", [1, 4, 2000])
def test_a_length_that_no_structure_has_is_refused(copied, length):
    def lengthen(line):
        names = [name for name in line.get("params", {}) if name.startswith("mode")]
        for part in ("params", "distributions") if names else ():
            for name in names:
                line[part][f"{name.partition('_')[0]}_of_{length}"] = line[part].pop(name)
        if names:
            line["params"]["length"] = length

    changed(copied, lengthen)
    with pytest.raises(ValueError, match=r"is damaged: .*its length must be from 2 to 3;"):
        search.load(copied)
