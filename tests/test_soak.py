"""The soak itself: a few of its attacks, and that it sees what it looks for."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak import kills
from tests.soak.__main__ import soak
from tests.soak.command import Answer, answer_of
from tests.soak.options import EXAMPLES, _places
from tests.soak.verdict import changed, refusal, snapshot


@pytest.mark.slow
def test_a_short_soak_finds_nothing(tmp_path):
    tally = soak({"kills": 1, "files": 6, "options": 6, "disks": 0}, 7, "", tmp_path)
    assert not tally.faults
    names = [finding.attack for finding in tally.findings]
    assert {name.partition(":")[0] for name in names} == {"kills", "files", "options"}


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(2, err="sekron: no.\n"), "refused"),
        (Answer(1, err="sekron: KeyError: 1 (--traceback shows where)\n"), "another's words"),
        (Answer(1, err="Traceback (most recent call last):\n"), "traceback"),
        (Answer(2, err="sekron: " + "x" * 9999), "no line"),
        (Answer(2), "no line"),
        (Answer(-11), "crashed"),
        (Answer(-9, in_time=False), "hung"),
    ],
)
def test_an_error_is_told_from_a_refusal(answer, outcome):
    found, fault = refusal(answer)
    assert outcome in found
    assert bool(fault) == ("refused" not in found)


def test_whatever_is_written_elsewhere_is_seen(tmp_path):
    for name in ("run", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("before")
    before = snapshot(tmp_path)
    (tmp_path / "run" / "file").write_text("after")
    assert changed(before, snapshot(tmp_path), ["run"]) == []
    assert changed(before, snapshot(tmp_path), []) == ["run/file"]
    (tmp_path / "outside" / "file").write_text("afterw")
    (tmp_path / "outside" / "link").symlink_to("nowhere")
    assert changed(before, snapshot(tmp_path), ["run"]) == ["outside/file", "outside/link"]
    (tmp_path / "outside" / "file").unlink()
    assert "outside/file" in changed(before, snapshot(tmp_path), ["run"])


def test_every_command_is_attacked():
    assert {command for command, _, _ in _places()} == set(EXAMPLES)


@pytest.mark.slow
def test_a_command_dies_at_the_change_and_at_the_time_that_are_given(tmp_path):
    whole = answer_of(("python", "finetune"), tmp_path / _made(tmp_path, "whole"), 200.0)
    assert (whole.code, whole.in_time) == (0, True)
    last = answer_of(
        ("python", "finetune"), tmp_path / _made(tmp_path, "last"), 200.0, whole.n_changes
    )
    assert last.code == -9
    after = answer_of(("python", "finetune"), tmp_path / _made(tmp_path, "beyond"), 200.0, 10**6)
    assert replace(after, seconds=0.0) == replace(whole, seconds=0.0)
    hung = answer_of(("python", "finetune"), tmp_path / _made(tmp_path, "hung"), 0.01)
    assert (hung.code, hung.in_time) == (-9, False)
    assert kills.network_in(tmp_path / "whole") == kills.network_in(tmp_path / "beyond")


def _made(parent: Path, name: str) -> str:
    (parent / name).mkdir()
    return name
