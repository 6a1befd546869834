"""Layers that other processes search: the same candidates, where it pays, and for no longer."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import save_file
from torch import nn

import search
from search import Budget
from search.folder.run_folder import RunFolder
from search.per_layer.study import LayerStudy
from search.pipeline import processes
from search.pipeline.processes import helped
from search.pipeline.stages import search_weights
from search.workers.processes import Processes

SETTINGS = {
    "budget": Budget(flops=0.5),
    "n_trials": 3,
    "max_sequence_length": 2,
    "measure_seconds": 0,
    "progress": False,
}


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(6)]
    return nn.Sequential(nn.Conv2d(3, 8, 3), *layers, nn.Flatten(), nn.Linear(8 * 36, 3))


@pytest.fixture
def begun(monkeypatch):
    """Where processes pay always; returns their numbers."""
    monkeypatch.setattr(processes, "WORTH", 0.0)
    numbers, begin = [], Processes.begin

    def counted(self):
        numbers.append(self._number)
        begin(self)

    monkeypatch.setattr(Processes, "begin", counted)
    return numbers


def searched(**changes):
    return search.run(network(), torch.zeros(1, 3, 8, 8), **{**SETTINGS, **changes})


def claimed(folder):
    """Return layer -> number of the worker that has searched it."""
    storage = RunFolder(folder).storage()
    (study,) = (s for s in storage.get_all_studies() if s.study_name.endswith("/claims"))
    trials = storage.get_all_trials(study._study_id)
    done = [t.user_attrs for t in trials if t.state == TrialState.COMPLETE and t.user_attrs]
    return {a["what"]: a["worker"] for a in done if a.get("what", "").startswith("layer ")}


@pytest.mark.slow
def test_processes_find_what_one_finds(tmp_path, begun, monkeypatch):
    alone = searched(n_threads=1)
    folder, run = tmp_path / "run", LayerStudy.run

    def waiting(self, *arguments):
        """Search one layer once all others were searched elsewhere."""
        end = time.monotonic() + 60.0
        while len(claimed(folder)) < 5:
            assert time.monotonic() < end
            time.sleep(0.2)
        run(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(LayerStudy, "run", waiting)
        together = searched(n_threads=3, run=folder)
    assert begun == [2]
    assert len(set(claimed(folder).values())) > 1
    assert together.best == alone.best
    assert together.candidates().equals(alone.candidates())
    # Nothing is left to do, and so nobody is begun.
    again = searched(n_threads=3, run=folder, budget=Budget(flops=0.3))
    assert begun == [2]
    assert again.best == alone.plan(Budget(flops=0.3))


@pytest.mark.slow
def test_one_that_has_nothing_left_to_do_ends_without_a_word(tmp_path):
    searched(run=tmp_path / "run")
    weights = search_weights(network(), ["1"])
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    reader, writer = os.pipe()  # which stays open, as that of a parent does
    try:
        process = subprocess.run(
            [sys.executable, "-c", processes.CODE, tmp_path / "run", path],
            stdin=reader,
            capture_output=True,
            check=False,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert (process.returncode, process.stdout, process.stderr) == (0, b"", b"")


@pytest.mark.slow
def test_a_process_that_cannot_help_is_told_of_and_missed_by_nobody(tmp_path, begun, monkeypatch):
    monkeypatch.setattr(processes, "CODE", "raise SystemExit('no torch here')")
    with pytest.warns(UserWarning, match="a worker has ended: no torch here"):
        result = searched(n_threads=2, run=tmp_path / "run", n_trials=30)
    assert begun == [1]
    assert result.best == searched(n_threads=1, n_trials=30).best


@pytest.mark.parametrize(
    ("run", "seconds", "n_threads", "device"),
    [
        (None, 100.0, 2, "cpu"),
        ("run", 1.0, 2, "cpu"),
        ("run", 100.0, 1, "cpu"),
        ("run", 100.0, 2, "meta"),
    ],
)
def test_threads_do_where_processes_do_not_pay(tmp_path, run, seconds, n_threads, device):
    weights = {name: torch.zeros(2, device=device) for name in "ab"}
    folder = None if run is None else tmp_path / run
    left = dict.fromkeys(weights, seconds)
    with helped(folder, None, weights, left, n_threads, pytest.fail) as here:
        assert here == n_threads


@pytest.mark.parametrize("fails", ["save_file", "Processes"])
def test_threads_do_where_no_process_can_be_begun(tmp_path, monkeypatch, fails):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes, fails, full)
    weights, said = {name: torch.zeros(2) for name in "ab"}, []
    with helped(tmp_path, None, weights, dict.fromkeys(weights, 99.0), 2, said.append) as here:
        assert here == 2
    (line,) = said
    assert line.startswith("no process helps to search layers: ")
    assert "No space left" in line


def test_the_password_of_a_storage_stands_in_no_argument(tmp_path, monkeypatch):
    made = []

    class Seen(Processes):
        def __init__(self, *arguments):
            made.append(arguments)
            super().__init__(0, *arguments[1:])

    monkeypatch.setattr(processes, "Processes", Seen)
    url = "postgresql+psycopg://me:s3cr3tword@host/db"
    weights = {name: torch.zeros(2) for name in "ab"}
    with helped(tmp_path, url, weights, dict.fromkeys(weights, 99.0), 2, pytest.fail) as here:
        assert here == 1
    ((number, code, arguments, storage, _),) = made
    assert number == 1
    assert "s3cr3tword" not in f"{code} {arguments}"
    assert storage == url


KILLED = """
import os, signal, sys
import torch
from search.pipeline import processes
weights = {name: torch.zeros(2) for name in "ab"}
with processes.helped(sys.argv[1], None, weights, dict.fromkeys(weights, 99.0), 2, print):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_of_a_search_that_was_killed_no_weights_are_left(tmp_path):
    searched(run=tmp_path / "run")
    places = tmp_path / "temporary"
    places.mkdir()
    environment = {**os.environ, "TMPDIR": str(places)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "run"], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    end = time.monotonic() + 60.0
    while list(places.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.05)
