"""The trials of a run in optuna-dashboard: a copy that people can read, in a real browser."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import optuna
import pytest
import torch
from optuna.trial import TrialState
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from torch import nn

import search
from search.folder.run_folder import RunFolder
from search.per_layer.study import METRIC_NAMES
from search.pipeline.readable_studies import HALF, readable_studies
from tests.conftest import decayed
from tests.test_search_figures import XSS
from tests.test_search_report_browser import browser
from tests.test_search_whole_network_within_latency import World
from tests.test_search_whole_network_within_latency import run as run_in
from tests.trials import CLAIMS

__all__ = ["browser"]  # a fixture
NAMES = (XSS, "二層", "שכבה")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run with studies of layers, of whole networks by latency, and by score."""
    torch.manual_seed(0)
    network = nn.Sequential()
    for name, sizes in zip(NAMES, [(6, 8), (8, 12), (12, 6)], strict=True):
        network.add_module(name, nn.Conv2d(*sizes, 3, padding=1))
    network = decayed(network).eval().requires_grad_(False)
    example = torch.randn(2, 6, 9, 7)
    path = tmp_path_factory.mktemp("runs") / "run"
    run_in(
        World(search.profile(network, example)),
        network,
        example,
        run=path,
        include=["*"],
        score=lambda net: -float((net(example) - network(example)).norm()),
        n_network_trials=3,
    )
    return path


def studies_of(storage):
    return {
        name: optuna.load_study(study_name=name, storage=storage)
        for name in optuna.get_all_study_names(storage)
        if not name.endswith(CLAIMS)
    }


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_objectives_of_every_study_have_names(folder):
    names = {
        name.split("/")[1]: study.metric_names
        for name, study in studies_of(RunFolder(folder).storage()).items()
    }
    layers = {name: list(METRIC_NAMES) for name in NAMES}
    assert names == {**layers, "networks": ["error"], "scores": ["score"]}


def test_a_trial_of_a_layer_tells_a_structure_with_its_numbers(folder):
    result, shown = search.load(folder), studies_of(readable_studies(folder))
    assert set(shown) == {
        *(f"layer {name}" for name in NAMES),
        "whole networks by error",
        "whole networks by score",
    }
    candidates = result.candidates().set_index(["layer", "structure"])
    written = studies_of(RunFolder(folder).storage())
    for name, layer in zip(NAMES, result.profile.searched, strict=True):
        study = shown[f"layer {name}"]
        assert study.metric_names == list(METRIC_NAMES)
        finished = written[f"sekron/{name}"].get_trials(states=(TrialState.COMPLETE,))
        assert [trial.values for trial in study.trials] == [trial.values for trial in finished]
        told = [trial.user_attrs for trial in study.trials]
        assert {attributes["layer"] for attributes in told} == {name}
        assert {"enumeration", "sampler"} >= {a.get("proposed by", "sampler") for a in told}
        found = 0
        for attributes in told:
            key = (name, attributes.get("structure"))
            if key in candidates.index:
                row = candidates.loc[key]
                assert attributes["error"] == row["error"]
                assert (attributes["FLOPs"], attributes["params"]) == (row["flops"], row["params"])
                found += attributes["FLOPs"] <= HALF * layer.flops
        assert found > 0


def test_trials_of_networks_tell_what_a_plan_costs(folder):
    result, shown = search.load(folder), studies_of(readable_studies(folder))
    study = shown["whole networks by error"]
    assert study.metric_names == ["error"]
    assert {name for trial in study.trials for name in trial.params} == set(NAMES)
    for trial in study.trials:
        assert 0 < trial.user_attrs["FLOPs"] <= result.profile.flops
        assert len(trial.system_attrs["constraints"]) == 1  # as the dashboard looks for them
    members = {member.error: member.used for member in result.members}
    known = [trial for trial in study.trials if trial.value in members]
    assert known
    for trial in known:
        used = members[trial.value]
        assert (trial.user_attrs["FLOPs"], trial.user_attrs["params"]) == tuple(used.values())
    (scored,) = (s for name, s in shown.items() if name.endswith("by score"))
    for trial in scored.trials:
        plan = next(plan for plan, score in result.scores.networks.values() if score == trial.value)
        totals = result.profile.totals(plan)
        attributes = dict(trial.user_attrs)
        assert (attributes.pop("FLOPs"), attributes.pop("params")) == tuple(totals.values())
        assert attributes == {f"structure of {name}": str(s) for name, s in plan.items()}


def test_what_is_done_to_the_copy_is_not_done_to_the_run(folder):
    before = contents(folder)
    storage = readable_studies(folder)
    for name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    assert contents(folder) == before
    assert len(studies_of(readable_studies(folder))) == 5


def test_an_unfinished_run_shows_what_is_there(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "run")
    journal = tmp_path / "run" / "study.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]) + lines[len(lines) // 2][:9])
    shown = studies_of(readable_studies(tmp_path / "run"))
    assert 0 < len(shown) < 5
    journal.write_bytes(b"")
    assert studies_of(readable_studies(tmp_path / "run")) == {}


def test_a_database_is_read_where_its_user_names_it(
    command_line, small_network, small_input, tmp_path
):
    url, run = f"sqlite:///{tmp_path}/trials.db", tmp_path / "run"
    search.run(
        small_network,
        small_input,
        budget=search.Budget(flops=0.6),
        n_trials=1,
        max_sequence_length=2,
        measure_seconds=0,
        run=run,
        storage=url,
        name="ours",
        progress=False,
    )
    optuna.create_study(storage=url, study_name="theirs")
    before = (tmp_path / "trials.db").read_bytes()
    shown = studies_of(readable_studies(run, url))
    assert set(shown) == {f"layer {layer.name}" for layer in search.load(run, url).profile.searched}
    assert (tmp_path / "trials.db").read_bytes() == before
    code, out, err = command_line("dashboard", run)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "give its URL again" in err


def test_mistakes_are_one_line(command_line, folder, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            ((tmp_path,), "must be a run folder, but has no run.json"),
            ((folder, "--port", port), f"port {port} must be free"),
            ((folder, "--port", 65536), "65535"),
        ):
            code, out, err = command_line("dashboard", *arguments)
            assert (code, out) == (2, "")
            assert message in err
            assert err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    code, out, err = command_line("dashboard", folder)
    assert (code, out) == (2, "")
    assert "pip install 'sekron[dashboard]'" in err


@contextmanager
def served(folder):
    """Run the command and yield the address that it tells; end it as a user does."""
    # Tests that run in the background of a shell would pass on that they ignore the signal.
    main = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    main += "from search.cli.app import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", main, "dashboard", str(folder), "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            told = ""
            while not told.rstrip().endswith("}"):
                line = process.stdout.readline()
                assert line, process.stderr.read()
                told += line
            yield json.loads(told)["url"]
        finally:
            process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
        assert process.wait() == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs Chromium")
def test_a_browser_shows_the_studies_and_their_trials(folder, browser):
    trials = studies_of(readable_studies(folder))[f"layer {XSS}"].trials
    trial = next(trial for trial in trials if "structure" in trial.user_attrs)
    told = [f"{name} {trial.user_attrs[name]}" for name in ("layer", "structure", "FLOPs")]

    def shows(*texts):
        WebDriverWait(browser, 60).until(
            lambda _: all(t in browser.find_element(By.TAG_NAME, "body").text for t in texts)
        )

    with served(folder) as url:
        browser.get(url)
        shows(*(f"layer {name}" for name in NAMES), "whole networks by error")
        assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
        browser.get(f"{url}dashboard/studies/0/trials?numbers={trial.number}")
        shows(f"{len(trials)} Trials", f"Trial {trial.number} (", *told)
        browser.get(f"{url}dashboard/studies/0")
        shows("Pareto Front", *METRIC_NAMES)
        assert browser.find_elements(By.CSS_SELECTOR, "img[src=x]") == []
