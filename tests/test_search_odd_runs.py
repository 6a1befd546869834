"""Run folders of every sort, in every way to look at them: front, report, dashboard."""

import json
import shutil

import optuna
import pytest
import torch
from torch import nn

import search
from search.front import sweep
from search.pipeline.readable_studies import readable_studies
from tests.test_search_figures import XSS


def looked_at(command_line, run):
    """Show a run in every way; return rows of the front, words on stderr, and studies."""
    code, out, err = command_line("front", run, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert bool(told["lacks"]) == ("is not finished" in err)
    assert command_line("front", run)[0] == 0
    code, out, report_err = command_line("report", run, "--json")
    assert code == 0, report_err
    assert json.loads(out)["lacks"] == told["lacks"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert ("This search is not finished" in page.replace("</strong>", "")) == bool(told["lacks"])
    assert "<img" not in page
    return told, optuna.get_all_study_names(readable_studies(run))


@pytest.fixture
def copied(small_run, tmp_path):
    shutil.copytree(small_run, tmp_path / "run")
    return tmp_path / "run"


def test_a_run_that_is_finished_has_no_clock_and_no_score(command_line, copied):
    told, studies = looked_at(command_line, copied)
    assert told["lacks"] == []
    assert not {"latency_ms", "score"} & set(told["rows"][0])
    assert len(studies) == 4


@pytest.mark.parametrize("kept", [0.0, 0.4, 0.9])
def test_a_run_that_was_killed_shows_what_is_there(command_line, copied, kept):
    journal = copied / "study.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: int(kept * len(whole))])
    for name in ("front.csv", "candidates.csv", "plan.json"):
        (copied / name).unlink()
    told, studies = looked_at(command_line, copied)
    assert told["lacks"]
    assert 0.0 in {row["error"] for row in told["rows"]}  # the dense network, if nothing else
    assert (len(studies) == 0) == (kept == 0.0)


WIDE = """
import torch
from torch import nn

def wide():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256, bias=False))

def is_dense(network):
    return float(isinstance(network[0], nn.Linear))
"""


@pytest.mark.parametrize(
    ("limits", "lack"),
    [
        # Factors that divide channels would hold it, but none are proposed.
        (("--params", "260"), "none of its plans holds params ≤ 260"),
        (
            ("--params", "50%", "--min-score", "0.9", "--score", "wide_network:is_dense"),
            "its plan was not scored yet",
        ),
    ],
    ids=["params", "score"],
)
def test_a_request_without_a_plan_leaves_the_folder_open(
    command_line, tmp_path, monkeypatch, few_ranks, limits, lack
):
    (tmp_path / "wide_network.py").write_text(WIDE)
    monkeypatch.syspath_prepend(tmp_path)
    run, output = tmp_path / "run", ("--output", tmp_path / "small.safetensors")
    asked = ("search", "wide_network:wide", "--input", "1x64", "--include", "*", "--trials", "0")
    asked += ("--network-trials", "0", "--measure-seconds", "0", "--run", run)
    assert command_line(*asked, "--params", "50%")[0] == 0
    before = search.load(run)
    code, _, err = command_line(*asked, *limits)
    assert code == 2
    assert "must be reachable" in err

    told, _ = looked_at(command_line, run)
    assert told["lacks"] == [lack]
    digests = [plan.digest for plan in before.pareto_front()["plan"]]
    assert {row["plan"] for row in told["rows"]} >= set(digests)
    for wanted in (("--plan", digests[0]), ("--params", "50%")):
        code, out, err = command_line("apply", run, *wanted, *output, "--json")
        assert (code, err) == (0, "")
        plan = before.best if "--params" in wanted else before.by_digest(digests[0])
        assert json.loads(out)["plan"] == plan.digest
    code, _, err = command_line("apply", run, *output)
    assert (code, f"{run} must hold a finished search, but {lack}" in err) == (2, True)
    code, out, err = command_line("compare", run, "--params", "50%", "--json")
    assert code == 0, err
    assert "sekron" in {row["method"] for row in json.loads(out)["rows"]}

    with pytest.raises(ValueError, match=f"but {lack}; .* with `needs_best=False`"):
        search.load(run)
    assert search.load(run, needs_best=False).by_digest(digests[0]).digest == digests[0]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"search.load('{run}', needs_best=False).by_digest" in page


@pytest.mark.slow
@pytest.mark.parametrize("n_layers", [1, 60])
def test_one_layer_and_very_many_with_names_in_any_script(
    command_line, tmp_path, monkeypatch, n_layers
):
    monkeypatch.setattr(sweep, "STEPS", 1)  # the ways to look are tried here, not the allocation
    network, layer = nn.Sequential(), nn.Conv2d(4, 4, 3, padding=1)
    for i in range(n_layers):
        network.add_module(f"{XSS} 二層 שכבה \u202e{i}", nn.Conv2d(4, 4, 3, padding=1))
        network[i].load_state_dict(layer.state_dict())  # equal weights are searched once
    search.run(
        network,
        torch.randn(1, 4, 5, 7),
        budget=search.Budget(),
        n_trials=0,
        include=["*"],
        measure_seconds=0,
        run=tmp_path / "run",
        progress=False,
    )
    _, studies = looked_at(command_line, tmp_path / "run")
    assert studies == [f"layer {next(iter(dict(network.named_children())))}"]
