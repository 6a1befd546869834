"""The page of a run: finished or not, and whatever its folder holds."""

import json
import re
import shutil
import sys

import pytest
import torch
from torch import nn

import baselines
import search
from search.folder.run_folder import RunFolder
from search.front import sweep
from search.front.result import SearchResult
from search.pipeline.load import load_so_far
from search.report.page import Report
from search.report.rivals import read_rivals
from sekron.columns import COLUMNS
from tests.test_search_figures import XSS

MOST_BYTES = 6_000_000


def page_of(run):
    result, lacks = load_so_far(run)
    return Report(str(run), RunFolder(run).read(), result, lacks, read_rivals(run)).html()


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def words_of(page):
    """What is written on a page before its data and scripts."""
    body = page[page.index("<body>") : page.index('<script type="application/json"')]
    return " ".join(re.sub("<[^>]*>", " ", body).split())


@pytest.fixture
def copied(small_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(small_run, folder)
    return folder


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_written_but_the_page(command_line, copied):
    before = contents(copied)
    code, out, err = command_line("report", copied)
    assert (code, err) == (0, "")
    assert out == f"report: {copied}/report.html\n"
    after = contents(copied)
    page = after.pop(copied / "report.html")
    assert after == before
    assert len(page) < MOST_BYTES
    elsewhere = copied.parent / "page.html"
    assert command_line("report", copied, "--output", elsewhere)[0] == 0
    assert elsewhere.read_bytes() == page


def test_the_page_asks_for_nothing(copied):
    page = page_of(copied)
    assert "default-src 'none'" in page
    own = re.sub(r'<script type="text/plain" id="plotly">.*?</script>', "", page)
    assert not re.findall(r'(?:src|href)="(?!data:,")', own)
    assert "url(" not in own
    assert "@import" not in own


def test_the_sentence_has_the_numbers_of_the_best_plan(copied):
    result, words = search.load(copied), words_of(page_of(copied))
    totals = result.profile.totals(result.best)
    row = result.pareto_front().iloc[result.best_row]
    assert f"Asked for {result.budget}, the search found a plan that replaces" in words
    assert f"{len(result.best)} of {len(result.profile.layers)} layers" in words
    assert f"{100 * totals['flops'] / result.profile.flops:.1f} % of the FLOPs" in words
    assert f"{100 * totals['params'] / result.profile.params:.1f} % of the parameters" in words
    assert f"an error of {row['error']:.4g}" in words
    assert "not timed" in words


def test_every_plan_is_its_rows_of_the_frames(copied):
    result, layers = search.load(copied), data_of(page_of(copied))["layers"]
    names = [column["name"] for column in layers["columns"]]
    for row, plan in enumerate(result.pareto_front()["plan"]):
        frame = result.layers(plan).assign(
            weight_shape=lambda f: ["×".join(map(str, shape)) for shape in f["weight_shape"]]
        )
        rows = [layers["choices"][i][choice] for i, choice in enumerate(layers["plans"][row])]
        assert rows == frame[names].to_numpy().tolist()


def test_the_commands_name_the_plan_even_if_the_front_changes(command_line, copied, small_network):
    result, data = search.load(copied), data_of(page_of(copied))
    plans = list(result.pareto_front()["plan"])
    for commands, plan in zip(data["commands"], plans, strict=True):
        (digest,) = re.findall(r"--plan (\w+) --model module:attribute", commands["shell"])
        assert result.by_digest(digest) == plan
    namespace = {"model": small_network}
    exec("\n".join(commands["python"].splitlines()[:3]), namespace)
    assert isinstance(namespace["small"], nn.Module)
    with pytest.raises(
        ValueError, match="must begin the digest of one plan of the front, but none"
    ):
        result.by_digest("no")
    with pytest.raises(ValueError, match=rf"but {len(plans)} of the {len(plans)} have it"):
        result.by_digest("")


SETTINGS = {
    "trials are missing": {"n_trials": 99},
    "not measured": {"budget": {"latency": 0.5}},
    "none holds the budget": {"budget": {"flops": 1}},
}


@pytest.mark.parametrize("lacking", [*SETTINGS, "no trials"])
def test_the_python_that_is_shown_runs_on_the_folder(copied, small_network, lacking):
    document = json.loads((copied / "run.json").read_text())
    document["settings"] |= SETTINGS.get(lacking, {})
    (copied / "run.json").write_text(json.dumps(document))
    if lacking == "no trials":
        (copied / "study.log").write_bytes(b"")
    plans = list(load_so_far(copied)[0].pareto_front()["plan"])
    data = data_of(page_of(copied))
    for commands, plan in zip(data["commands"], plans, strict=True):
        namespace = {"model": small_network}
        lines = commands["python"].splitlines()
        exec("\n".join(lines[:-2]), namespace)
        assert namespace["plan"] == plan
        assert isinstance(namespace["small"], nn.Module)


def test_a_plan_is_applied_by_its_digest(command_line, copied, tmp_path, monkeypatch):
    (tmp_path / "report_network.py").write_text(
        "import torch\nfrom tests.conftest import *\n"
        "def made():\n    return small_network.__wrapped__()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    result = search.load(copied)
    plan = result.pareto_front()["plan"][0]
    arguments = ("apply", copied, "--model", "report_network:made", "--output", tmp_path / "x.st")
    digest = ("--plan", plan.digest[:12])
    code, out, err = command_line(*arguments, *digest)
    assert code == 0, err
    assert f"{result.profile.totals(plan)['flops']:,} FLOPs" in out
    code, out, err = command_line(*arguments, *digest, "--flops", "50%")
    assert (code, out) == (2, "")
    assert "a plan must be named by --plan or by a budget, got both" in err


def test_an_unfinished_search_is_shown_and_marked(command_line, copied):
    document = json.loads((copied / "run.json").read_text())
    document["settings"]["n_trials"] = 99
    (copied / "run.json").write_text(json.dumps(document))
    code, _, err = command_line("report", copied)
    assert code == 0
    assert "is not finished (layer '3' has 6 of 99 trials), and the page says so" in err
    page = (copied / "report.html").read_text(encoding="utf-8")
    assert "This search is not finished. What is there is shown. layer &#39;3&#39; has" in (
        words_of(page)
    )
    assert len(data_of(page)["front"]["rows"]) > 1


def test_a_search_that_has_just_begun_has_the_dense_network(copied):
    (copied / "study.log").write_bytes(b"")
    page = page_of(copied)
    assert "the search has so far the dense network" in words_of(page)
    assert len(data_of(page)["front"]["rows"]) == 1


def test_a_search_for_latency_that_was_not_measured_yet(copied):
    document = json.loads((copied / "run.json").read_text())
    document["settings"]["budget"] = {"latency": 0.5}
    (copied / "run.json").write_text(json.dumps(document))
    page = page_of(copied)
    assert "its plan was not measured yet" in words_of(page)
    assert len(data_of(page)["front"]["rows"]) > 1


@pytest.mark.slow
@pytest.mark.parametrize("n_layers", [1, 350])
def test_one_layer_and_very_many(tmp_path, monkeypatch, n_layers):
    monkeypatch.setattr(sweep, "STEPS", 1)  # the page is tried here, not the allocation
    layer = nn.Conv2d(4, 4, 3, padding=1)
    network = nn.Sequential()
    for i in range(n_layers):
        name = f"{XSS} 二層 שכבה \u202e{i}"
        network.add_module(name, nn.Conv2d(4, 4, 3, padding=1))
        network[i].load_state_dict(layer.state_dict())  # equal weights are searched once
    search.run(
        network,
        torch.randn(1, 4, 5, 7),
        budget=search.Budget(),
        n_trials=0,
        include=["*"],
        measure_seconds=0,
        run=tmp_path,
        progress=False,
    )
    page = page_of(tmp_path)
    assert len(page.encode()) < MOST_BYTES
    assert "<img" not in page
    layers = data_of(page)["layers"]
    assert [choices[0][0] for choices in layers["choices"]] == list(dict(network.named_children()))


def test_rivals_are_shown_with_their_rungs(copied, small_network, small_input):
    baselines.compare(
        small_network,
        small_input,
        search.Budget(flops=0.6),
        methods=["channel_svd"],
        score=lambda network: float(sum(p.numel() for p in network.parameters())),
        output=copied / "comparison.csv",
        progress=False,
    )
    data = data_of(page_of(copied))
    names = [column["name"] for column in data["rivals"]["columns"]]
    assert "score" in names
    assert "score_repaired" not in names  # nothing was
    assert {row[names.index("method")] for row in data["rivals"]["rows"]} == {"channel_svd"}
    assert "channel_svd" in [trace["name"] for trace in data["figures"]["flops"]["data"]]


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "method\n" + "x" * 9, "\0\0"])
def test_a_damaged_comparison_is_one_line(command_line, copied, text):
    (copied / "comparison.csv").write_text(text)
    code, out, err = command_line("report", copied)
    assert (code, out) == (2, "")
    assert "comparison.csv must be a comparison, but is damaged" in err
    assert err.count("\n") == 1


def test_what_a_comparison_says_stays_text(copied, small_network, small_input):
    baselines.compare(
        small_network,
        small_input,
        search.Budget(flops=0.6),
        methods=["channel_svd"],
        output=copied / "comparison.csv",
        progress=False,
    )
    path = copied / "comparison.csv"
    path.write_text(path.read_text().replace(",channel_svd,", f",{XSS}</script>,"))
    page = page_of(copied)
    assert "<img" not in page
    assert XSS in [row[1].removesuffix("</script>") for row in data_of(page)["rivals"]["rows"]]


@pytest.mark.parametrize("name", ["plotly.offline", "jinja2"])
def test_what_is_not_installed_is_one_line(command_line, copied, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    from search.report import page  # noqa: PLC0415  its cache is emptied

    page._plotly.cache_clear()
    code, out, err = command_line("report", copied)
    assert (code, out) == (2, "")
    assert f"the package {name} must be installed for this" in err
    assert "pip install 'sekron[report]'" in err
    assert err.count("\n") == 1


def test_what_cannot_be_written_is_refused_before_anything_is_compared(
    command_line, copied, monkeypatch
):
    monkeypatch.setattr("search.cli.report.compared", None)
    nowhere = copied / "no" / "page.html"
    assert "no/page.html" in command_line("report", copied, "--compare", "--output", nowhere)[2]
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = command_line("report", copied, "--compare")
    assert code == 2
    assert "the package jinja2 must be installed for this" in err


def test_mistakes_are_one_line(command_line, copied, tmp_path):
    for arguments, message in (
        ((tmp_path / "no",), "must be a run folder, but has no run.json"),
        ((copied, "--output", tmp_path / "no" / "page.html"), "no/page.html"),
    ):
        code, out, err = command_line("report", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_every_column_of_every_frame_has_its_meaning(copied):
    result = search.load(copied)
    frames = (
        result.layers(result.best),
        result.candidates(),
        result.pareto_front().drop(columns="plan"),
        result.history(),
    )
    assert {name for frame in frames for name in frame} <= set(COLUMNS)


def test_without_a_best_plan_on_the_front_none_is_called_so(copied, monkeypatch):
    monkeypatch.setattr(SearchResult, "best_row", None)
    assert data_of(page_of(copied))["best"] is None
