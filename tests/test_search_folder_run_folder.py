"""The folder of a run: read back as it was, refused where it is damaged or another search's."""

import copy
import json
import os
import re
import shutil

import pytest
import torch
from torch import nn

import search
from search import Budget
from search.per_layer.study import LayerStudy
from sekron import Plan


def run(network, example, **changes):
    shared = {"n_trials": 6, "measure_seconds": 0, "progress": False}
    arguments = {"budget": Budget(flops=0.5), **shared, **changes}
    return search.run(network, example, **arguments)


@pytest.fixture(scope="module")
def folder(small_run):
    return small_run


@pytest.fixture(scope="module")
def result(small_run, small_network, small_input):
    return run(small_network, small_input)


def same_candidates(first, second):
    return first.candidates().equals(second.candidates())


def scaled(network, name):
    """A copy of a network with one weight changed."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.get_submodule(name).weight.mul_(2)
    return other


def test_the_folder_holds_what_the_result_says(folder, result):
    assert dict(Plan.load(folder / "plan.json")) == dict(result.best)
    assert len((folder / "front.csv").read_text().splitlines()) == 1 + len(result.pareto_front())
    assert len((folder / "candidates.csv").read_text().splitlines()) == 1 + len(result.candidates())


def test_a_loaded_run_is_the_run(folder, result):
    loaded = search.load(folder)
    assert loaded.profile == result.profile
    assert loaded.budget == result.budget
    assert same_candidates(loaded, result)
    assert dict(loaded.best) == dict(result.best)
    assert loaded.pareto_front().astype(str).equals(result.pareto_front().astype(str))


REFUSED = {
    "weights": ({}, lambda n: scaled(n, "6"), "layer '6' has other weights"),
    "shape": (
        {},
        lambda n: nn.Sequential(*list(n)[:-1], nn.Linear(30, 9)),
        "layer '13' has another shape, input or choice",
    ),
    "missing": ({}, lambda n: nn.Sequential(*list(n)[:-3]), "layer '11' has"),
    "choice": ({"exclude": ["8"]}, lambda n: n, "layer '8' has another shape, input or choice"),
    "seed": ({"seed": 1}, lambda n: n, "was searched with seed=0, got 1; use the same, or another"),
    "length": ({"max_sequence_length": 2}, lambda n: n, "max_sequence_length=3, got 2"),
    "sampler": ({"sampler": "tpe"}, lambda n: n, "sampler='neighbour', got 'tpe'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_of_another_search_is_refused(small_network, small_input, folder, result, case):
    changes, modify, message = REFUSED[case]
    before = (folder / "run.json").read_text()
    with pytest.raises(ValueError, match=message):
        run(modify(small_network), small_input, run=folder, **changes)
    assert (folder / "run.json").read_text() == before


def damaged(document, *path, value):
    *parents, last = path
    holder = document
    for key in parents:
        holder = holder[key]
    if value is None:
        del holder[last]
    else:
        holder[last] = value
    return json.dumps(document)


DAMAGE = {
    "empty": (lambda _: "", "Input data was truncated"),
    "half": (lambda d: json.dumps(d)[:500], "Input data was truncated"),
    "no-seed": (
        lambda d: damaged(d, "settings", "seed", value=None),
        r"required field `seed` - at `\$\.settings`",
    ),
    "no-layers": (
        lambda d: damaged(d, "profile", "layers", value=None),
        r"required field `layers` - at `\$\.profile`",
    ),
    "no-weights": (lambda d: damaged(d, "weights", value=None), "required field `weights`"),
    "budget": (
        lambda d: damaged(d, "settings", "budget", "flops", value=7.5),
        r"`flops` as a share must be in \(0, 1\], got 7.5",
    ),
    "digest": (lambda d: damaged(d, "weights", "6", value=None), "6"),
    "flops": (lambda d: damaged(d, "profile", "flops", value="many"), "flops"),
    "weight-shape": (lambda d: damaged(d, "profile", "layers", 1, "weight_shape", value=[4]), "3"),
    "no-calls": (lambda d: damaged(d, "profile", "layers", 1, "calls", value=[]), "3"),
    "family": (lambda d: damaged(d, "settings", "families", value=["tt"]), "tt"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_record_says_where(folder, result, tmp_path, case):
    damage, message = DAMAGE[case]
    for name in ("run.json", "study.log"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    document = json.loads((folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(damage(document))
    with pytest.raises(ValueError, match=rf"run\.json is damaged: .*{message}"):
        search.load(tmp_path).pareto_front()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format", "other", "must be 'sekron.run', but is 'other'"),
        ("version", 9, "must have version 2, got 9; use the release that wrote it"),
        ("version", 1, "must have version 2, got 1; use the release that wrote it"),
    ],
)
def test_another_format_or_version_is_named(folder, tmp_path, field, value, message):
    document = json.loads((folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(document | {field: value}))
    with pytest.raises(ValueError, match=rf"run\.json {message}"):
        search.load(tmp_path)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a run folder, but has no run\.json"):
        search.load(tmp_path)


def test_a_damaged_journal_says_where(folder, result, tmp_path):
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    (tmp_path / "study.log").write_bytes(b"".join([*lines[:9], b"garbage\n", *lines[10:]]))
    with pytest.raises(ValueError, match=r"study\.log must be the journal of a study, but is dam"):
        search.load(tmp_path)


def test_an_unfinished_search_is_no_result(folder, result, tmp_path):
    document = json.loads((folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(damaged(document, "settings", "n_trials", value=99))
    (tmp_path / "study.log").write_bytes((folder / "study.log").read_bytes())
    with pytest.raises(ValueError, match="layer '3' has 6 of 99 trials; run the same search again"):
        search.load(tmp_path)


@pytest.mark.parametrize("n_scored", [0, 1, 5])
def test_a_search_killed_among_its_templates_is_no_result(
    small_network, small_input, tmp_path, monkeypatch, n_scored
):
    """Also where nothing is proposed after them, so that no trial is missing by number."""
    shared = {"n_trials": 0, "include": ["3"], "max_sequence_length": 2}
    shared["budget"] = Budget(flops=0.9)
    whole = run(small_network, small_input, run=tmp_path / "whole", **shared)
    add, added = LayerStudy._add_template, []

    def killed(self, point):
        if len(added) == n_scored:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")  # as a kill would leave it
            raise KeyboardInterrupt
        added.append(point)
        add(self, point)

    with monkeypatch.context() as patch:
        patch.setattr(LayerStudy, "_add_template", killed)
        with pytest.raises(KeyboardInterrupt):
            run(small_network, small_input, run=tmp_path / "run", **shared)
    for folder in (tmp_path / "run", tmp_path / "killed"):
        with pytest.raises(ValueError, match=r"layer '3' has not all of its templates yet; run"):
            search.load(folder)
        assert not same_candidates(search.load(folder, needs_best=False), whole)
    run(small_network, small_input, run=tmp_path / "run", **shared)
    for folder in (tmp_path / "run", tmp_path / "whole"):
        assert same_candidates(search.load(folder), whole)


def test_a_folder_can_be_moved(small_network, small_input, tmp_path):
    run(small_network, small_input, run=tmp_path / "before", n_trials=0)
    (tmp_path / "before").rename(tmp_path / "after")
    assert search.load(tmp_path / "after").best is not None
    run(small_network, small_input, run=tmp_path / "after", n_trials=0)


@pytest.mark.filterwarnings("ignore:.* is out of reach")  # which is for the clock to say
@pytest.mark.filterwarnings("ignore:.*`measure_seconds`")  # a busy machine needs longer
@pytest.mark.parametrize("then", [{"measure_seconds": 0}, {"score": None}], ids=str)
def test_a_loaded_run_is_the_last_one_of_its_folder(small_network, small_input, tmp_path, then):
    """Not an earlier one for the same budget, which looked at the clock or at a score."""
    first = {"measure_seconds": 0.2} if "measure_seconds" in then else {"score": len}
    shared = {"run": tmp_path, "n_trials": 0, "n_network_trials": 1, "max_sequence_length": 2}
    shared["calibration"] = [small_input] if "score" in then else None
    run(small_network, small_input, **shared, **first)
    last = run(small_network, small_input, **shared, **then)
    loaded = search.load(tmp_path)
    assert loaded.best == last.best == Plan.load(tmp_path / "plan.json")
    assert (loaded.timetable, loaded.scores) == (None, None)
    assert loaded.pareto_front().equals(last.pareto_front())


@pytest.mark.parametrize(
    "line", [b'{"op_code":99}', b"[" * 100_000, b"[1,2]", b'{"op_code":0}', b"null"]
)
def test_whatever_a_journal_holds_is_named(folder, tmp_path, line):
    (tmp_path / "run.json").write_bytes((folder / "run.json").read_bytes())
    journal = (folder / "study.log").read_bytes()
    (tmp_path / "study.log").write_bytes(journal + line + b"\n")
    with pytest.raises(ValueError, match=r"study\.log must be the journal of a study, but is dama"):
        search.load(tmp_path)


@pytest.mark.filterwarnings("ignore:networks are scored without re-estimated batch norm")
@pytest.mark.parametrize("wanders", ["score", "metric", "batches"])
def test_a_run_folder_stays_where_it_is_when_the_users_code_goes_elsewhere(
    small_network, small_input, tmp_path, monkeypatch, wanders
):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)

    def score(_):
        os.chdir(there)
        return 1.0

    class Batches:
        def __iter__(self):
            os.chdir(there)
            return iter([small_input])

    given = {
        "score": {"score": score},
        "metric": {"calibration": Batches(), "output": "values"},
        "batches": {"calibration": Batches(), "output": "values", "score": len},
    }
    shared = {"n_trials": 0, "max_sequence_length": 2, "n_network_trials": 1}
    result = run(small_network, small_input, run="run", **shared, **given[wanders])
    assert os.getcwd() == str(there)
    assert os.listdir(there) == []
    assert search.load(here / "run").best == result.best
    with pytest.raises(FileNotFoundError, match=r"^run must be a run folder, but has no run\.json"):
        search.load("run")


def test_a_file_is_no_run_and_stays_as_it_is(tmp_path, small_network, small_input):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    rule = f"a run must be a folder, got the file {path}; name another path."
    for ask in (
        lambda: run(small_network, small_input, run=path),
        lambda: search.load(path),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(rule)}$"):
            ask()
    assert path.read_text() == "mine"
