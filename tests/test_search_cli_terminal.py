"""What a terminal shows: colours, a front of letters, help, completion, JSON, how a search ends."""

import json
import math
import os
import pty
import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

import search
from search.cli import output
from search.cli.app import EXAMPLES, app
from search.cli.front_plot import BEST, HEIGHT, LIMIT, PLAN, WIDTH, front_plot
from search.front.outcome import Outcome
from tests.forked import answers_of
from tests.test_search_cli_app import QUICK, SHAPE, files, run_folder, sekron_command

__all__ = ["files", "run_folder", "sekron_command"]  # fixtures
COMMANDS = [command.__name__ for command in EXAMPLES]


def test_every_command_has_an_example_that_is_right():
    group = get_command(app)
    assert set(group.commands) == set(COMMANDS)
    for command, arguments in EXAMPLES.items():
        parsed = group.commands[command.__name__]
        with parsed.make_context(command.__name__, shlex.split(arguments)) as context:
            assert context.params


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_the_example_and_json(sekron_command, name):
    code, out, err = sekron_command(name, "--help")
    assert (code, err) == (0, "")
    assert f"Example: sekron {name} " in out
    assert "--json" in out


def shown_in(front, best, limits):
    """The letters of a picture between its axes."""
    lines = str(front_plot(front, best, limits)).splitlines()
    assert len(lines) == HEIGHT + 3
    return [line.partition("|")[2].ljust(WIDTH) for line in lines[:HEIGHT]]


def test_every_plan_stands_at_its_error_and_flops():
    front = pd.DataFrame(
        {"flops_ratio": [0.25, 0.625, 1.0], "flops": [256, 640, 1024], "error": [2.0, 1.0, 0.0]}
    )
    shown = shown_in(front, 1, {"flops": 448.0})
    half, middle = round((HEIGHT - 1) / 2), round((WIDTH - 1) / 2)
    places = {
        (row, column): letter
        for row, line in enumerate(shown)
        for column, letter in enumerate(line)
        if letter not in (" ", LIMIT)
    }
    assert places == {
        (0, 0): PLAN,
        (HEIGHT - 1 - half, middle): BEST,
        (HEIGHT - 1, WIDTH - 1): PLAN,
    }
    limit = round((WIDTH - 1) / 4)
    assert all(line[limit] == LIMIT for line in shown)
    text = str(front_plot(front, 1, {}))
    assert "25.0%" in text
    assert "100.0%" in text
    assert LIMIT not in "".join(shown_in(front, None, {}))


@pytest.mark.parametrize("error", [0.0, 3.0])
def test_a_front_of_one_plan_has_a_picture(error):
    front = pd.DataFrame({"flops_ratio": [1.0], "flops": [100], "error": [error]})
    assert "".join(shown_in(front, None, {})).strip() == PLAN


def printed_front(monkeypatch, result, width):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.print_front(result)


@pytest.mark.parametrize("width", [60, 160])
def test_the_picture_is_beside_the_table_where_there_is_room(small_run, monkeypatch, capsys, width):
    result = search.load(small_run)
    printed_front(monkeypatch, result, width)
    lines = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out).splitlines()
    is_beside = ["|" in line for line in lines]
    n_rows = 1 + len(result.pareto_front())
    assert sum(is_beside) == HEIGHT
    assert is_beside.index(True) == (0 if width == 160 else n_rows)
    assert max(map(len, lines)) <= width


IN_TURN = """
import json, os, sys
from search.cli.app import main
for environment, file in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        for number in (1, 2) if file else ():
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
        os.environ.update(environment)
        sys.argv = ["sekron", *sys.argv[2:]]
        main()
    assert os.waitpid(child, 0)[1] == 0
    print("\\f", flush=True)
"""


def run_in_terminal(arguments, *runs):
    """Run a command in a terminal of its own for each run; return what that shows.

    Of a run are given its environment and the file that its output is redirected to, or None.
    """
    leader, follower = pty.openpty()
    known = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    with subprocess.Popen(
        [sys.executable, "-c", IN_TURN, json.dumps(runs), *map(str, arguments)],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**known, "TERM": "xterm-256color", "COLUMNS": "160"},
    ) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other side has closed
                break
            if not part:
                break
            shown += part
        assert process.wait() == 0
    os.close(leader)
    return shown.decode().split("\f")[:-1]


COLOUR = re.compile(r"\x1b\[[\d;]*(?:3[0-8]|4[0-8]|9[0-7])(?:;\d+)*m")


def test_colours_are_for_terminals_that_want_them(small_run, tmp_path):
    file = tmp_path / "front.txt"
    runs = ({}, None), ({"NO_COLOR": "1"}, None), ({}, str(file))
    wanted, unwanted, redirected = run_in_terminal(("front", small_run), *runs)
    assert COLOUR.search(wanted)
    assert not COLOUR.search(unwanted)
    assert not redirected.strip()
    assert file.stat().st_size
    assert b"\x1b" not in file.read_bytes()


def test_a_shell_completes_commands_and_options(tmp_path):
    def asking(words):
        place = str(len(words.split(" ")) - 1)
        asked = {"_SEKRON_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
        return (), asked

    commands = [asking(words) for words in ("sekron fr", "sekron ", "sekron front --js")]
    answers = answers_of(tmp_path, commands)
    assert [(code, err) for code, _, err in answers] == [(0, "")] * 3
    begun, every, option = (out.split() for _, out, _ in answers)
    assert begun == ["front"]
    assert set(COMMANDS) <= set(every)
    assert option == ["--json"]


def test_the_script_for_a_shell_asks_for_completion(sekron_command, monkeypatch):
    code, out, _ = sekron_command("--help")
    assert code == 0
    assert "--install-completion" in out


def as_read(out):
    """JSON as strict readers take it."""

    def refuse(name):
        raise AssertionError(name)

    return json.loads(out, parse_constant=refuse)


def test_a_search_says_what_it_found_where_it_is_and_what_is_next(sekron_command, files):
    run = "run of two words"
    arguments = ("cli_networks:small", *QUICK, "--flops", "60%", "--run", run)
    code, out, _ = sekron_command(
        "search", *arguments, "--score", "cli_networks:score", "--network-trials", "1"
    )
    assert code == 0
    result = search.load(files / run)
    row = result.pareto_front().iloc[result.best_row]
    found, place = out.splitlines()[-2:]
    assert found == (
        f"best plan for flops ≤ 60.0%: {len(result.best)} of 4 layers replaced, "
        f"{row['flops']:,} FLOPs ({row['flops_ratio']:.1%}), {row['params']:,} parameters "
        f"({row['params_ratio']:.1%}), error {row['error']:.4g}, score {row['score']:.4g} "
        f"(dense -2185)"
    )
    assert (files / run / "plan.json").exists()
    assert place.startswith(f"it is {run}/plan.json; next: sekron report '{run}', or ")
    _, _, following = place.partition(", or sekron ")
    assert sekron_command(*shlex.split(following))[0] == 0
    assert (files / "small.safetensors").exists()


def test_a_speedup_is_told_where_it_was_measured():
    outcome = Outcome("d", 2, 3, 1000, 0.5, 20, 0.25, 0.1, 1.3333, None, None)
    assert str(outcome) == (
        "2 of 3 layers replaced, 1,000 FLOPs (50.0%), 20 parameters (25.0%), error 0.1, "
        "1.33 times as fast as dense, measured"
    )


def test_json_of_searching_and_looking(sekron_command, run_folder):
    result = search.load(run_folder)
    front = result.pareto_front()
    code, out, err = sekron_command("front", "run", "--json")
    assert (code, err) == (0, "")
    told = as_read(out)
    assert (told["budget"], told["lacks"]) == ("flops ≤ 60.0%", [])
    rows = told["rows"]
    for row, (_, expected) in zip(rows, front.iterrows(), strict=True):
        assert row.pop("structures") == {name: str(s) for name, s in expected["plan"].items()}
        assert row.pop("plan") == expected["plan"].digest
        assert row == expected.drop("plan").to_dict()

    code, out, _ = sekron_command("layers", "cli_networks:small", *SHAPE, "--json")
    assert code == 0
    told = as_read(out)
    assert told["flops"] == result.profile.flops
    assert [row["layer"] for row in told["layers"]] == list(result.layers()["layer"])
    assert told["layers"][0]["weight_shape"] == [8, 3, 3, 3]

    weights = ("--weights", "good.safetensors")
    arguments = ("cli_networks:small", *weights, *QUICK, "--flops", "60%", "--run", "run")
    code, out, _ = sekron_command("search", *arguments, "--json")
    assert code == 0
    best = as_read(out)
    assert best["plan"] == result.best.digest
    assert best["flops_ratio"] == front.iloc[result.best_row]["flops_ratio"]
    assert best["speedup"] is None

    code, out, _ = sekron_command("apply", "run", "--output", "small.safetensors", "--json")
    assert code == 0
    assert as_read(out)["plan"] == result.best.digest

    code, out, _ = sekron_command("report", "run", "--output", "page.html", "--json")
    assert (code, as_read(out)) == (0, {"report": "page.html", "lacks": []})


def test_a_table_has_one_form(sekron_command, run_folder):
    for command in ("front", "compare"):
        code, out, err = sekron_command(command, "run", "--csv", "--json")
        assert (code, out) == (2, "")
        assert "a table must be printed in one form, got --csv and --json" in err


def test_what_is_not_finite_is_null(capsys):
    output.print_json({"a": np.nan, "b": -np.inf, "名": 1.5})
    assert as_read(capsys.readouterr().out) == {"a": None, "b": None, "名": 1.5}


def test_small_numbers_keep_their_digits(capsys):
    output.print_frame(pd.DataFrame({"error": [3.21e-5, 0.25, 0.0, math.nan]}))
    cells = capsys.readouterr().out.split()
    assert {"3.21e-05", "0.2500", "0.0000"} < set(cells)
