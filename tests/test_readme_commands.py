"""The command line of the README as a new user types it: to a report of their own network."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from search.cli.app import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.search(r"## Command line\n\n```\n(.*?)```", README, re.DOTALL)[1]
COMMANDS = [shlex.split(line) for line in BLOCK.splitlines()]
QUICK = ("--trials", "0", "--max-length", "2", "--measure-seconds", "0")


def test_every_command_of_the_readme_is_one():
    install, *commands = COMMANDS
    assert install[:3] == ["pip", "install", "-e"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra in re.findall(r"\[(.*?)\]", install[3])[0].split(","):
        assert extra in extras["optional-dependencies"]
    group = get_command(app)
    for program, name, *arguments in commands:
        assert program == "sekron"
        with group.commands[name].make_context(name, list(arguments)) as context:
            assert context.params


@pytest.mark.slow
def test_from_nothing_to_a_report_in_at_most_four_commands(
    command_line, torchvision, tmp_path, monkeypatch
):
    """A clone, an installation, a search, a report; the search is given less to do here."""
    monkeypatch.chdir(tmp_path)
    needed = [words for words in COMMANDS if words[1] in {"install", "search", "report"}]
    assert [words[1] for words in needed] == ["install", "search", "report"]
    _, search, report = needed
    assert not [word for word in search if word.endswith((".safetensors", ".pt"))]  # nobody has it
    few = ("--include", "layer1.*.conv1")
    arguments = [word if word != "50%" else "90%" for word in search[1:]]
    code, out, err = command_line(*arguments, *QUICK, *few)
    assert code == 0, err
    assert f"next: sekron {shlex.join(report[1:])}" in out
    code, out, err = command_line(*report[1:])
    assert code == 0, err
    assert (tmp_path / report[2] / "report.html").stat().st_size < 6_000_000
