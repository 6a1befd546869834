"""The comparison with an older commit, on a copy of this checkout that has a history of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from studies.unchanged import __main__ as unchanged
from studies.unchanged import probe

ROOT = Path(__file__).parents[1]
CASE = "grouped 1-d"


def git(repository, *arguments):
    names = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    command = ["git", "-C", repository, *names, *arguments]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with one commit of the packages, taken for this checkout; nothing is trained."""
    shutil.copy(ROOT / ".gitignore", tmp_path)
    for name in ("search", "sekron", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name)
    own = tmp_path / "studies" / "unchanged" / "probe.py"  # with a shorter search
    case = '"grouped 1-d": Case(grouped_1d, (1, 3, 128)'
    change(own, f"{case}),", f'{case}, {{"n_trials": 1, "max_sequence_length": 2}}),')
    monkeypatch.setattr(probe, "__file__", str(own))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "before")
    monkeypatch.setattr(unchanged, "ROOT", tmp_path)
    nothing = {"weights": {}, "calibration": []}
    monkeypatch.setattr(unchanged, "write_inputs", lambda path, _: torch.save(nothing, path))
    return tmp_path


def compared(monkeypatch, commit="HEAD"):
    """Return the exit code of the study."""
    monkeypatch.setattr(sys, "argv", ["unchanged", commit, "--cases", CASE])
    with pytest.raises(SystemExit) as exit_:
        unchanged.main()
    return exit_.value.code


def change(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_search_is_the_same_where_nothing_that_matters_is_changed(checkout, monkeypatch, capsys):
    (checkout / "search" / "new.py").touch()
    assert compared(monkeypatch) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(CASE)
    assert line.endswith("  same")


def test_what_differs_first_is_printed(checkout, monkeypatch, capsys):
    change(checkout / "search" / "front" / "sweep.py", "STEPS = 24", "STEPS = 23")
    assert compared(monkeypatch) == 1
    assert "  front, row " in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("now", "was", "difference"),
    [
        ({"a": [{"x": "1"}]}, {"a": [{"x": "1"}]}, None),
        ({"a": [{"x": "1"}]}, {"a": [{"x": "2"}]}, "a, row 0, x: 1, was 2"),
        ({"a": [{}, {"x": "1"}]}, {"a": [{}]}, "a, row 1, x: 1, was nothing"),
        ({"a": [{"x": "1"}]}, {"a": [{"x": "1", "y": "2"}]}, "a, row 0, y: nothing, was 2"),
        ({"a": []}, {"a": [], "b": [{"x": "1"}]}, "b, row 0, x: nothing, was 1"),
        ({"a": [], "b": [{"x": "1"}]}, {"a": []}, "b, row 0, x: 1, was nothing"),
    ],
)
def test_the_first_difference(now, was, difference):
    assert unchanged.first_difference(now, was) == difference


def test_what_cannot_be_compared_is_one_line(checkout, monkeypatch, capsys):
    assert compared(monkeypatch, "no-such-commit") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the commit must be one of this repository, got 'no-such-commit': ")
    change(checkout / "search" / "__init__.py", '"""Search', 'raise RuntimeError("broken")\n"""')
    assert compared(monkeypatch) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{CASE} must run on both sides, but in this checkout: ")
    assert line.endswith("RuntimeError: broken")


def test_packages_of_another_checkout_are_not_taken(tmp_path):
    arguments = [sys.executable, probe.__file__, tmp_path, CASE, "inputs", "output"]
    done = subprocess.run(
        arguments, check=False, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1
    assert f"AssertionError: {ROOT / 'search'}" in done.stderr


def test_the_networks_have_what_the_cases_are_for():
    groups = {m.groups for m in probe.grouped_1d() if isinstance(m, torch.nn.Conv1d)}
    assert groups == {1, 2, 3, 4}
    assert probe.mobilenet_v2()(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
