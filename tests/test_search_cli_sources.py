"""Commands that look at data or at rivals: calibration, comparison."""

import io
import json

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import search
from sekron import Plan
from tests.test_search_cli_app import QUICK, files, run_folder, sekron_command

__all__ = ["files", "run_folder", "sekron_command"]  # fixtures are found by their names


@pytest.fixture
def images(files):
    torch.manual_seed(0)
    save_file({"images": torch.randn(70, 3, 11, 9)}, files / "images.safetensors")
    save_file({"a": torch.zeros(2, 2), "b": torch.zeros(2)}, files / "two.safetensors")
    save_file({"a": torch.zeros(3, 3, 11, 9) / 0}, files / "infinite-images.safetensors")
    return files


def test_calibrated_search_and_its_application(sekron_command, images):
    weights = ("--weights", "good.safetensors", "--run", "calibrated")
    arguments = ("cli_networks:small", *weights, *QUICK, "--flops", "60%")
    code, _, err = sekron_command("search", *arguments, "--calibration", "images.safetensors")
    assert code == 0, err
    result = search.load(images / "calibrated")
    assert set(result.metrics) == {layer.name for layer in result.profile.searched}
    plan = Plan.load(images / "calibrated" / "plan.json")
    assert plan == result.best
    assert plan.metric_digest
    code, out, _ = sekron_command("apply", "calibrated", "--output", "small.safetensors")
    assert code == 0
    assert "FLOPs" in out
    code, _, err = sekron_command("search", *arguments)
    assert code == 2
    assert "calibrated=True, got False" in err


def test_search_for_a_score_and_its_application(sekron_command, images):
    arguments = ("cli_networks:small", "--weights", "good.safetensors", "--run", "scored", *QUICK)
    score = ("--score", "cli_networks:score", "--network-trials", "2")
    code, out, err = sekron_command("search", *arguments, *score, "--flops", "60%")
    assert code == 0, err
    assert "score" in out
    result = search.load(images / "scored")
    parameters = result.profile.totals(result.best)["params"]
    assert -parameters == max(value for _, value in result.scores.networks.values())
    code, out, _ = sekron_command("apply", "scored", "--output", "small.safetensors")
    assert code == 0
    assert f"{parameters:,} parameters" in out
    code, _, err = sekron_command("search", *arguments, *score, "--min-score", "3")
    assert code == 2
    assert "`min_score` must be at most the dense network's -" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--score", "cli_networks"), "a score reads 'module:attribute', got 'cli_networks'"),
        (("--score", "cli_networks:number"), "number must be a function of a network, got 3"),
        (("--min-score", "0.5"), "a least score needs `score`, got score ≥ 0.5 without one"),
    ],
)
def test_scores_that_are_none_are_refused(sekron_command, images, options, message):
    arguments = ("cli_networks:small", *QUICK, "--run", "refused")
    code, out, err = sekron_command("search", *arguments, *options)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (images / "refused").exists()


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.safetensors", "none.safetensors must be a file"),
        (
            "two.safetensors",
            "must hold one tensor of images (N, …) under any name, of float32, got (2, 2) torch",
        ),
        ("infinite-images.safetensors", "`calibration` must be finite"),
    ],
)
def test_images_that_are_none_are_refused(sekron_command, images, file, message):
    arguments = ("cli_networks:small", *QUICK, "--flops", "60%", "--run", "refused")
    code, out, err = sekron_command("search", *arguments, "--calibration", file)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (images / "refused").exists()


@pytest.mark.usefixtures("few_ranks")
def test_comparison_at_the_budget_of_the_run_and_at_another(sekron_command, run_folder):
    result = search.load(run_folder)
    code, out, _ = sekron_command("compare", "run", "--csv")
    assert code == 0
    frame = pd.read_csv(io.StringIO(out))
    ours = frame[(frame["method"] == "sekron") & (frame["ranks_by"] == "plan")].iloc[0]
    assert ours["error"] == pytest.approx(result.allocate(result.budget).loss, rel=1e-5)
    assert (frame["flops_ratio"].dropna() <= 0.6).all()
    assert frame["error"].is_monotonic_increasing or frame["error"].isna().any()
    assert "latency_ms" not in frame  # this run has no clock
    code, out, _ = sekron_command("compare", "run", "--json")
    assert code == 0
    told = json.loads(out)
    assert told["budget"] == "flops ≤ 60.0%"
    assert [row["method"] for row in told["rows"]] == frame["method"].tolist()
    code, out, _ = sekron_command("compare", "run", "--params", "50%")
    assert code == 0
    assert out.startswith("params ≤ 50.0%, least error first")
    code, _, err = sekron_command("compare", "run", "--flops", "1%")
    assert code == 2
    assert "the budget must be reachable, got flops ≤ 1.0%" in err
    kept = pd.read_csv(run_folder / "comparison.csv")
    assert {"flops ≤ 60.0%", "params ≤ 50.0%"} < set(kept["budget"])


@pytest.mark.usefixtures("few_ranks")
def test_rivals_of_a_calibrated_run_are_also_in_its_metric(sekron_command, images):
    weights = ("--weights", "good.safetensors", "--run", "compared")
    arguments = ("cli_networks:small", *weights, *QUICK, "--flops", "60%")
    given = ("--calibration", "images.safetensors")
    code, _, err = sekron_command("search", *arguments, *given)
    assert code == 0, err
    code, out, _ = sekron_command("compare", "compared", "--csv", *given)
    assert code == 0
    frame = pd.read_csv(io.StringIO(out))
    assert {"sekron", "cp", "cp in metric", "activation_svd"} < set(frame["method"])
    errors = frame["error_in_metric"].dropna()
    assert errors.is_monotonic_increasing
    code, out, _ = sekron_command("compare", "compared", "--csv")
    assert code == 0
    assert "activation_svd" not in set(pd.read_csv(io.StringIO(out))["method"])


def test_rivals_factorize_the_layers_that_were_searched(sekron_command, files, monkeypatch):
    """Not those below `min_share` too, which have no metric in a calibrated search."""
    weights = ("--weights", "good.safetensors", "--run", "shares")
    arguments = ("cli_networks:small", *weights, *QUICK, "--flops", "80%", "--min-share", "0.5")
    assert sekron_command("search", *arguments)[0] == 0

    def compare(network, example, budget, *, include=None, exclude=None, **_):
        searched = search.profile(network, example, include, exclude).searched
        raise ValueError(f"it factorizes {', '.join(layer.name for layer in searched)}")

    monkeypatch.setattr("baselines.compare", compare)
    assert "it factorizes 2 (" in sekron_command("compare", "shares")[2]


def test_a_run_from_python_cannot_be_compared_by_the_command(sekron_command, small_run):
    code, _, err = sekron_command("compare", str(small_run))
    assert code == 2
    assert "its model is not known here; add --model" in err


def test_a_record_without_inputs_says_how_they_come_in(sekron_command, run_folder, files):
    record = json.loads((run_folder / "run.json").read_text())
    assert [entry["shape"] for entry in record["source"]["inputs"]] == [[2, 3, 11, 9]]
    del record["source"]["inputs"]
    (files / "older").mkdir()
    for path in run_folder.iterdir():
        (files / "older" / path.name).write_bytes(path.read_bytes())
    (files / "older" / "run.json").write_text(json.dumps(record))
    given = ("--model", "cli_networks:small")
    code, _, err = sekron_command("compare", "older", *given, "--max-seconds", "1")
    assert code == 2
    assert "must say what its network takes, but does not: give the same `sekron search`" in err
    arguments = ("search", "cli_networks:small", "--weights", "good.safetensors", *QUICK)
    assert sekron_command(*arguments, "--flops", "60%", "--run", "older")[0] == 0
    code, _, err = sekron_command("compare", "older", *given, "--traceback")
    assert code == 0, err
