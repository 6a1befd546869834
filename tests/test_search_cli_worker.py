"""`sekron worker`, and the workers that `sekron search --workers` begins on its machine."""

import os
import signal
import subprocess

from optuna.trial import TrialState

import search
from search.folder.run_folder import RunFolder
from search.workers.claims import Claims
from tests.test_search_cli_app import QUICK, files, run_folder, sekron_command
from tests.trials import claims_in, trials_in

__all__ = ["files", "run_folder", "sekron_command"]

SEARCH = ("search", "cli_networks:small", "--weights", "good.safetensors", *QUICK)


def test_a_worker_of_a_finished_search_finds_nothing_to_do(sekron_command, run_folder):
    before = {path.name: path.read_text() for path in run_folder.glob("*.csv")}
    code, out, err = sekron_command("worker", "run")
    assert (code, err.count("sekron:")) == (0, 0)
    assert out == "run: done; `sekron front run` shows it\n"
    assert {path.name: path.read_text() for path in run_folder.glob("*.csv")} == before


def test_a_worker_that_is_to_end_gives_back_what_it_has(sekron_command, run_folder, monkeypatch):
    monkeypatch.setattr(Claims, "take", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    code, _, err = sekron_command("worker", "run", "--threads", "1")
    assert code == 130
    assert "sekron: interrupted; what a run folder or --folder holds is kept" in err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert claims_in(RunFolder(run_folder).storage())[-1].state == TrialState.FAIL


def test_a_worker_without_a_search_is_refused(sekron_command):
    code, _, err = sekron_command("worker", "nowhere")
    assert (code, err) == (2, "sekron: nowhere must be a run folder, but has no run.json.\n")
    code, _, err = sekron_command(*SEARCH, "--flops", "60%", "--run", "no", "--workers", "0")
    assert (code, err) == (2, "sekron: --workers must be from 1 to 256, got 0.\n")


def test_images_for_a_search_from_python_are_refused(sekron_command, small_run):
    given = ("--model", "cli_networks:small", "--calibration", "images.safetensors")
    given += ("--score", "cli_networks:score")
    code, out, err = sekron_command("worker", str(small_run), *given)
    assert (code, out) == (2, "")
    assert "must say what its network takes, but does not: give the same `sekron search`" in err
    assert "`search.join` where it was searched from Python" in err


def test_workers_on_this_machine_help_and_end(sekron_command, files, monkeypatch):
    begun, begin = [], subprocess.Popen

    def beginning(command, **options):
        begun.append((command, begin(command, **options)))
        return begun[-1][1]

    monkeypatch.setattr(subprocess, "Popen", beginning)
    url = f"sqlite:///{files}/many.db"
    where = ("--storage", url, "--run", "many", "--workers", "2", "--threads", "1")
    code, out, err = sekron_command(*SEARCH, "--flops", "60%", *where)
    assert code == 0
    assert "sekron:" not in err
    assert "best plan for flops" in out
    (command, process), *others = begun
    assert others == []
    assert command[4:] == [
        *("worker", "many", "--model", "cli_networks:small", "--threads", "1"),
        *("--weights", "good.safetensors"),
    ]
    assert process.poll() is not None
    result = search.load(files / "many", storage=url)
    storage = RunFolder(files / "many").storage(url)
    for trials in (claims_in(storage), *trials_in(storage).values()):
        assert TrialState.RUNNING not in {trial.state for trial in trials}
    sekron_command(*SEARCH, "--flops", "60%", "--run", "one")
    assert search.load(files / "one").candidates().equals(result.candidates())


def test_a_calibration_is_loaded_alike_by_others():
    options = search.cli.calibration.calibration_options
    normalization = ((0.485, 0.456), (0.229, 1 / 3))
    text = options("folder", normalization, 7)
    assert text[:3] == ["--calibration", "folder", "--normalize"]
    assert search.cli.pictures.parse_normalization(text[3]) == normalization
    assert text[4:] == ["--images", "7"]
    assert options("", None, None) == []
