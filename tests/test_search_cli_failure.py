"""Whatever the user's code raises, and wherever: one line, an exit code, and no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_search_cli_app import QUICK, SHAPE, files, run_folder, sekron_command, trials_of

__all__ = ["files", "run_folder", "sekron_command"]  # fixtures are found by their names

RAISED = {
    "key": ("raise KeyError('x')", "KeyError: 'x'"),
    "recursion": ("deeper()", "RecursionError: maximum recursion depth exceeded"),
    "base": ("raise Odd('strange')", "Odd: strange"),
    "mute": ("raise Mute", "raised Mute"),
    "import": ("import no_such_thing", "ModuleNotFoundError: No module named 'no_such_thing'"),
    "lines": (r"raise RuntimeError('\nfirst\nsecond')", "RuntimeError: first"),
    "exit": ("sys.exit('that is all')", "SystemExit: that is all"),
    "good-exit": ("sys.exit(0)", "SystemExit: 0"),
    "memory": ("raise MemoryError", "MemoryError"),
    "end": ("raise EOFError", "EOFError"),
    "stop": ("next(iter(()))", "StopIteration"),
    "assert": ("assert 1 == 2", "AssertionError"),
    "pipe": ("raise BrokenPipeError(32, 'not yours')", "[Errno 32] not yours"),
    "unicode": ("raise Exception('café\u2028über')", "Exception: caf"),
    "group": ("raise ExceptionGroup('both', [KeyError(1)])", "both (1 sub-exception)"),
}
"""Statement -> what the line says."""

MODULE = """
import sys
from torch import nn

class Odd(BaseException):
    pass

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no words")

def deeper():
    deeper()

def fails(*_):
    {statement}

class Network(nn.Sequential):
    pass

def network(**methods):
    made = type("Made", (Network,), methods)
    return made(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3))

def whole(): return network()
def factory(): return fails()
def forward(): return network(forward=fails)
def copying(): return network(__deepcopy__=fails)
def mode(): return network(eval=fails)

def hook():
    made = network()
    made[1].register_forward_hook(fails)
    return made

def __getattr__(name):
    fails()
"""
PLACES = ("attribute", "factory", "forward", "copying", "mode", "hook")


@pytest.fixture
def written(files):
    """Write a module of the user's and return its name."""

    def write(text, **fields):
        names = {path.stem for path in files.glob("raising_*.py")}
        name = f"raising_{len(names)}"
        (files / f"{name}.py").write_text(text.format(**fields), encoding="utf-8")
        return name

    return write


def check(answer, message=""):
    code, out, err = answer
    assert code in (1, 2)
    assert out == ""
    assert err.startswith("sekron: ")
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in err
    assert message in err


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("place", PLACES)
def test_any_error_of_the_network_is_one_line(sekron_command, written, place, raised):
    statement, message = RAISED[raised]
    name = written(MODULE, statement=statement)
    message = message if place in ("attribute", "factory") else message.removeprefix("raised ")
    check(sekron_command("layers", f"{name}:{place}", *SHAPE), message)


@pytest.mark.parametrize("raised", RAISED)
def test_any_error_of_an_import_is_one_line(sekron_command, written, raised):
    statement, message = RAISED[raised]
    name = written(
        MODULE.replace("def __getattr__", "fails()\n\ndef __getattr__"), statement=statement
    )
    check(sekron_command("layers", f"{name}:whole", *SHAPE), message)


@pytest.mark.parametrize("raised", RAISED)
def test_any_error_of_the_score_is_one_line(sekron_command, written, files, raised):
    statement, message = RAISED[raised]
    name = written(MODULE, statement=statement)
    arguments = ("search", "cli_networks:small", *QUICK, "--run", "unscored", "--flops", "60%")
    check(sekron_command(*arguments, "--score", f"{name}:fails"), message)
    assert not (files / "unscored").exists()


def test_a_score_that_is_no_number_is_refused(sekron_command, written):
    name = written(MODULE, statement="return 'good'")
    arguments = ("search", "cli_networks:small", *QUICK, "--run", "unscored", "--flops", "60%")
    check(sekron_command(*arguments, "--score", f"{name}:fails"), "`score` must return a number")


def test_a_long_error_is_cut_and_a_quoted_traceback_left_out(sekron_command, written):
    name = written(MODULE, statement="raise RuntimeError('long ' * 1000)")
    answer = sekron_command("layers", f"{name}:mode", *SHAPE)
    check(answer, "RuntimeError: long long")
    assert len(answer[2]) < 600
    quoted = (
        r"'Caught KeyError.\nOriginal Traceback (most recent call last):\n  File x\nKeyError: 3'"
    )
    name = written(MODULE, statement=f"raise RuntimeError({quoted})")
    check(
        sekron_command("layers", f"{name}:mode", *SHAPE),
        "sekron: RuntimeError: Caught KeyError. KeyError: 3 (--traceback shows where)",
    )


@pytest.mark.parametrize("place", ["whole", "factory", "copying"])
def test_the_traceback_is_printed_where_it_is_asked_for(sekron_command, written, place):
    name = written(MODULE, statement="raise KeyError('x')")
    arguments = (
        "layers",
        f"{name}:{place}",
        "--input",
        "1x4x9x9" if place == "whole" else "1x3x9x9",
    )
    code = sekron_command(*arguments)[0]
    for asked in (("--traceback", *arguments), (*arguments, "--traceback")):
        again, out, err = sekron_command(*asked)
        assert (again, out) == (code, "")
        assert "Traceback (most recent call last)" in err
        assert f"{name}.py" in err or place == "whole"
    assert "--traceback" in sekron_command("--help")[1]
    assert "--traceback" in sekron_command("layers", "--help")[1]


def test_wrong_use_has_no_traceback_to_show(sekron_command):
    check(sekron_command("layers", "cli_networks:small", "--traceback"), "Missing option")


def test_an_interrupted_search_goes_on(sekron_command, written, files):
    text = (
        "import pathlib, signal\n"
        "def score(network):\n"
        "    calls = pathlib.Path('calls')\n"
        "    done = len(calls.read_text()) if calls.exists() else 0\n"
        "    calls.write_text('x' * (done + 1))\n"
        "    if done == 1:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    return -sum(p.numel() for p in network.parameters())\n"
    )
    name = written(text)
    arguments = ("search", "cli_networks:small", *QUICK, "--run", "halted", "--flops", "60%")
    arguments = (*arguments, "--score", f"{name}:score", "--network-trials", "3")
    code, out, err = sekron_command(*arguments)
    assert (code, out) == (130, "")
    assert (
        err.count(
            "interrupted; what a run folder or --folder holds is kept: the same command goes on"
        )
        == 1
    )
    assert "Traceback" not in err
    kept = trials_of(files / "halted")
    assert sum(kept.values()) > 0
    assert sekron_command(*arguments)[0] == 0
    after = trials_of(files / "halted")
    assert {name: after[name] for name in kept} == kept  # none is tried again


def in_another_process(
    files, *arguments, code="from search.cli.app import main; main()", **options
):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=files,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


CLOSED = """
import json, os, sys
from search.cli.app import main
for arguments in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        sys.argv = ["sekron", *arguments]
        main()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=sys.stderr)
"""


def test_a_closed_pipe_is_quiet(files, run_folder):
    commands = [("front", "run", "--csv"), ("front", "run"), ("--help",)]
    read, write = os.pipe()
    os.close(read)
    done = in_another_process(files, json.dumps(commands), code=CLOSED, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "1\n1\n1\n")


@pytest.mark.parametrize(("closed", "answers"), [("stdout", False), ("stderr", True)])
def test_a_closed_stream_is_quiet(command_line, small_run, monkeypatch, closed, answers):
    monkeypatch.setattr(sys, closed, None)  # as Python has it behind `>&-`
    code, out, err = command_line("front", small_run, "--csv")
    getattr(sys, closed).close()
    assert (code, err) == (0, "")
    assert out.startswith("error,") == answers


def test_what_python_reports_by_itself_is_a_line_each(files, written):
    name = written(
        "import atexit, sys, threading, warnings\n"
        "from cli_networks import small as made\n"
        "class Bad:\n"
        "    def __del__(self): raise KeyError('deleted')\n"
        "def thread(): raise KeyError('thread')\n"
        "def left(): sys.exit(3)\n"
        "def small():\n"
        "    for target in (thread, left):\n"
        "        started = threading.Thread(target=target)\n"
        "        started.start(); started.join()\n"
        "    Bad()\n"
        "    warnings.warn('first\\nsecond')\n"
        "    return made()\n"
        "@atexit.register\n"
        "def end(): raise KeyError('end')\n"
    )
    done = in_another_process(files, "layers", f"{name}:small", *SHAPE, stdout=subprocess.DEVNULL)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "sekron: ignored KeyError: 'thread'",
        "sekron: ignored KeyError: 'deleted'",
        "sekron: first second",
        "sekron: ignored KeyError: 'end'",
    ]
