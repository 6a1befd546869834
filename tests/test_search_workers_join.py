"""Workers that join a search: what they share, what they leave, what they refuse."""

import copy
import json
import os
import shutil
import threading
import time

import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import search
from search import Budget
from search.folder.run_folder import RunFolder
from search.folder.storage import open_storage
from search.per_layer.study import LayerStudy
from search.pipeline.join import _check_score
from search.pipeline.plans import judge_of
from search.pipeline.request import request_of
from search.pipeline.search import search_network
from search.whole_network import by_score
from search.workers import claims
from search.workers.claims import joined
from tests.test_search_whole_network_by_score import Likeness
from tests.trials import trials_in

ARGUMENTS = {"n_trials": 3, "max_sequence_length": 2, "measure_seconds": 0, "progress": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.01)


def searched(model, example, folder, *helpers, **changes):
    """Search while others help, each in a thread of its own; return the result."""
    arguments = {"budget": Budget(flops=0.5), **ARGUMENTS, **changes}
    failed = []

    def run(helper):
        try:
            helper()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(helper,)) for helper in helpers]

    def begin():
        for thread in threads:
            thread.start()

    result = search_network(
        request_of(model, example, **arguments), RunFolder(folder), lambda _: None, on_begin=begin
    )
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return result


def helper(model, folder, outcomes=None, **arguments):
    def run():
        outcome = search.join(model, folder, progress=False, **arguments)
        if outcomes is not None:
            outcomes.append(outcome)

    return run


def interrupt():
    raise KeyboardInterrupt


def test_layers_are_shared_and_none_is_searched_twice(
    small_network, small_input, tmp_path, monkeypatch
):
    alone = searched(small_network, small_input, tmp_path / "alone")
    scored, workers, score, done = [], set(), LayerStudy._score, []

    def noted(self, point, params):
        scored.append((self.study.study_name, point))
        workers.add(threading.get_ident())
        time.sleep(0.01)
        return score(self, point, params)

    monkeypatch.setattr(LayerStudy, "_score", noted)
    folder = tmp_path / "run"
    others = [helper(small_network, folder, done) for _ in range(2)]
    result = searched(small_network, small_input, folder, *others, n_threads=1)
    assert result.candidates().equals(alone.candidates())
    assert result.best == alone.best
    assert done == [True, True]
    assert len(scored) == len(set(scored))
    assert len(workers) > 1
    assert search.load(folder).pareto_front().equals(alone.pareto_front())


@pytest.mark.parametrize("budget", [Budget(flops=0.5), Budget(min_score=0.6)], ids=str)
def test_scores_are_shared_and_no_plan_is_scored_twice(
    small_network, small_input, tmp_path, monkeypatch, budget
):
    monkeypatch.setattr(by_score, "REACH", 6.0)
    arguments = {"budget": budget, "n_network_trials": 8, "calibration": [small_input]}

    def score():
        return Likeness(small_network, small_input)

    alone, own, others = score(), score(), [score(), score()]
    searched(small_network, small_input, tmp_path / "alone", score=alone, **arguments)
    folder, done = tmp_path / "run", []
    join = {"score": None, "calibration": [small_input]}
    helpers = [helper(small_network, folder, done, **{**join, "score": one}) for one in others]
    result = searched(small_network, small_input, folder, *helpers, score=own, **arguments)
    assert done == [True, True]
    plans = [value for one in (own, *others) for value in one.seen[1:]]  # the first is dense
    scores = RunFolder(folder).scores(result.metrics)
    assert len(plans) == len(scores.networks)
    assert sorted(plans) == pytest.approx(sorted(value for _, value in scores.networks.values()))
    assert search.load(folder).best == result.best
    assert scores.winners == {result.choices.question(budget): result.best}
    storage = RunFolder(folder).storage()
    (trials,) = [found for name, found in trials_in(storage).items() if "/scores/" in name]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    told = [t.user_attrs["number"] for t in trials if t.state == TrialState.COMPLETE]
    assert len(told) == len(set(told))
    if budget.min_score is None:
        assert sorted(told) == list(range(8))


@pytest.mark.parametrize(
    "changes",
    [{"measure_seconds": 1.0}, {"score": lambda _: 1.0, "n_network_trials": 1}],
    ids=["clock", "score"],
)
def test_the_clock_and_an_unknown_score_are_left_to_who_began(
    small_network, small_input, tmp_path, changes
):
    done, folder = [], tmp_path / "run"
    other = helper(small_network, folder, done)
    result = searched(small_network, small_input, folder, other, **changes)
    assert done == [False]
    assert search.load(folder).best == result.best


def test_a_worker_may_finish_what_was_left(small_network, small_input, tmp_path, monkeypatch):
    alone = searched(small_network, small_input, tmp_path / "alone")
    with pytest.raises(KeyboardInterrupt):
        search_network(
            request_of(small_network, small_input, budget=Budget(flops=0.5), **ARGUMENTS),
            RunFolder(tmp_path / "run"),
            lambda _: None,
            on_begin=interrupt,
        )
    assert search.join(small_network, tmp_path / "run", progress=False)
    result = search.load(tmp_path / "run")
    assert result.best == alone.best
    files = ("candidates.csv", "front.csv", "plan.json")
    for name in files:
        there, expected = ((tmp_path / run / name).read_text() for run in ("run", "alone"))
        assert there == expected


def test_a_search_that_is_at_work_is_not_made_twice(small_network, small_input, tmp_path):
    folder, told = tmp_path / "run", []

    def again():
        before = (folder / "run.json").read_text()
        with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is at it; `sekron wo"):
            searched(small_network, small_input, folder, budget=Budget(flops=0.6))
        told.append((folder / "run.json").read_text() == before)

    search_network(
        request_of(small_network, small_input, budget=Budget(flops=0.5), **ARGUMENTS),
        RunFolder(folder),
        lambda _: None,
        on_begin=again,
    )
    assert told == [True]
    assert str(search.load(folder).budget) == str(Budget(flops=0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, r"run was searched with seed=1, got 0; use the same, or another run folder"),
        ({"name": "other"}, r"run was searched with name='other', got 'sekron'; use the same"),
        ({}, r"another search has begun in .*run meanwhile; make the same search again"),
    ],
    ids=["seed", "name", "the same"],
)
def test_a_search_that_began_meanwhile_in_a_new_folder_keeps_it(
    small_network, small_input, tmp_path, changes, message
):
    """Also where it has ended by now, so that nobody is at work there."""
    folder, found = tmp_path / "run", []

    def score(_):  # before the second search may write anything
        if not found:
            found.append(searched(small_network, small_input, folder, **changes))
            found.extend((folder / name).read_text() for name in ("run.json", "plan.json"))
        return 1.0

    with pytest.raises(ValueError, match=message):
        searched(small_network, small_input, folder, score=score, n_network_trials=1)
    assert [(folder / name).read_text() for name in ("run.json", "plan.json")] == found[1:]
    assert search.load(folder).candidates().equals(found[0].candidates())


def test_what_another_search_or_a_storage_refuses_is_refused_before_any_score(
    small_network, small_input, tmp_path
):
    seen, told, nowhere = [], [], tmp_path / "none" / "study.db"

    def score(network):
        seen.append(network)
        return 1.0

    changes = {"n_network_trials": 1, "budget": Budget(flops=0.5), **ARGUMENTS}

    def again():
        seen.clear()
        with pytest.raises(ValueError, match=r"is at it; `sekron worker` helps there"):
            searched(small_network, small_input, tmp_path / "run", score=score, **changes)
        told.append(len(seen))

    request = request_of(small_network, small_input, score=score, **changes)
    search_network(request, RunFolder(tmp_path / "run"), lambda _: None, on_begin=again)
    assert told == [0]
    seen.clear()
    with pytest.raises(ValueError, match="must open, but it raised"):
        searched(
            small_network,
            small_input,
            tmp_path / "new",
            score=score,
            storage=f"sqlite:///{nowhere}",
            **changes,
        )
    assert seen == []
    assert not (tmp_path / "new").exists()


def test_the_last_digits_of_a_score_begin_no_other_trials(small_network, small_input, tmp_path):
    """They change with the threads and the machine; trials are named by the score noted first."""
    folder, here = tmp_path / "run", 31.2345 * (1 + 1e-9)
    changes = {"n_network_trials": 1, "budget": Budget(flops=0.5), **ARGUMENTS}
    request = request_of(small_network, small_input, score=lambda _: 31.2345, **changes)
    with pytest.raises(KeyboardInterrupt):
        search_network(request, RunFolder(folder), lambda _: None, on_begin=interrupt)
    request = request_of(small_network, small_input, score=lambda _: here, **changes)
    recorder = RunFolder(folder)
    judge = judge_of(request, recorder, None, lambda _: None)
    with joined(recorder.trials(None), request.settings.name, is_search=False) as own:
        assert judge.scores.dense == here
        _check_score(own, judge)
        assert judge.scores.dense == 31.2345
    result = search_network(request, recorder, lambda _: None)
    assert result.scores.dense == 31.2345


def test_another_network_score_or_storage_is_refused(small_network, small_input, tmp_path):
    folder = tmp_path / "run"
    changes = {"score": lambda _: 1.0, "n_network_trials": 1}
    searched(small_network, small_input, folder, **changes)
    other = copy.deepcopy(small_network)
    with torch.no_grad():
        other[3].weight[0, 0] += 1.0
    with pytest.raises(ValueError, match="another network: layer '3' has other weights"):
        search.join(other, folder)
    with pytest.raises(
        ValueError, match=r"has 1\.0, got 2\.0; give the same score and the same data"
    ):
        search.join(small_network, folder, progress=False, score=lambda _: 2.0)
    with pytest.raises(ValueError, match="are in the folder itself, got the storage sqlite://"):
        search.join(small_network, folder, storage="sqlite:///other.db")
    with pytest.raises(ValueError, match=r"`n_threads` must be at least 1, got 0\."):
        search.join(small_network, folder, n_threads=0)
    with pytest.raises(FileNotFoundError, match=r"must be a run folder, but has no run\.json"):
        search.join(small_network, tmp_path / "none")
    plain = tmp_path / "plain"
    searched(small_network, small_input, plain)
    with pytest.raises(ValueError, match="must have a score for one to be given"):
        search.join(small_network, plain, score=lambda _: 1.0)


def test_trials_that_are_not_there_are_not_begun_anew(
    small_network, small_input, tmp_path, monkeypatch
):
    """A relative file is another one elsewhere, and a folder may be copied without its journal."""
    url, folder, named = "sqlite:///study.db", tmp_path / "run", {"budget": Budget(flops=0.5)}
    here, other, empty = (tmp_path / name for name in ("here", "other", "empty"))
    for place in (here, other, empty):
        place.mkdir()
    monkeypatch.chdir(here)
    request = request_of(small_network, small_input, storage=url, **named, **ARGUMENTS)
    with pytest.raises(KeyboardInterrupt):
        search_network(request, RunFolder(folder), lambda _: None, on_begin=interrupt)
    monkeypatch.chdir(other)
    searched(small_network, small_input, tmp_path / "another", storage=url, name="another")
    before = trials_in(open_storage(url)).keys()
    with pytest.raises(ValueError, match=r"run must be in sqlite:///study.db, but no study of a s"):
        search.join(small_network, folder, storage=url, progress=False)
    assert trials_in(open_storage(url)).keys() == before
    monkeypatch.chdir(empty)
    with pytest.raises(FileNotFoundError, match=r"sqlite:///study\.db must exist, but does not"):
        search.join(small_network, folder, storage=url, progress=False)
    assert list(empty.iterdir()) == []
    monkeypatch.chdir(here)
    assert search.join(small_network, folder, storage=url, progress=False)
    searched(small_network, small_input, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", empty / "copy", ignore=shutil.ignore_patterns("*.log"))
    with pytest.raises(FileNotFoundError, match=r"study\.log must be the journal of a study, but"):
        search.join(small_network, empty / "copy", progress=False)


def test_a_worker_scores_networks_as_the_search_does(small_network, small_input, tmp_path):
    """With batch norm re-estimated from as many images."""
    images, told = [small_input.repeat(8, 1, 1, 1)], []
    changes = {"score": lambda _: 1.0, "n_network_trials": 1, "budget": Budget(flops=0.5)}
    changes |= {**ARGUMENTS, "output": "values"}
    request = request_of(small_network, small_input, calibration=images, **changes)
    n_images = len(images[0])
    with pytest.raises(KeyboardInterrupt):
        search_network(request, RunFolder(tmp_path / "run"), told.append, on_begin=interrupt)
    for calibration, got in ((None, 0), ([images[0][:5]], 5)):
        with pytest.raises(ValueError, match=rf"with {n_images} images before .*, got {got}; give"):
            search.join(
                small_network,
                tmp_path / "run",
                score=lambda _: 1.0,
                calibration=calibration,
                progress=False,
            )
    request = request_of(small_network, small_input, calibration=[images[0][:5]], **changes)
    with pytest.raises(KeyboardInterrupt):
        search_network(request, RunFolder(tmp_path / "run"), told.append, on_begin=interrupt)
    assert f"re-estimated with {n_images} images, those to come with 5" in " ".join(told)


class Masked(nn.Module):
    """A network whose forward leaves open what the second entry of a batch is."""

    def __init__(self, network):
        super().__init__()
        self.body = network

    def forward(self, x, mask=None):
        return self.body(x if mask is None else x * mask)


@pytest.mark.parametrize("is_metric", [False, True], ids=["labels", "metric"])
def test_a_worker_takes_the_calibration_that_the_search_takes(
    small_network, small_input, tmp_path, is_metric
):
    """Batches with labels, of which the example tells what is input, and a metric."""
    model = Masked(small_network)
    calibration = [(small_input.repeat(4, 1, 1, 1), torch.zeros(8))]
    changes = {**ARGUMENTS, "budget": Budget(flops=0.5), "n_network_trials": 1, "output": "values"}
    if is_metric:
        first = search.run(model, small_input, calibration=calibration, **changes)
        calibration = first.metrics

    changes |= {"calibration": calibration, "score": lambda _: 1.0}
    request = request_of(model, small_input, **changes)
    with pytest.raises(KeyboardInterrupt):
        search_network(request, RunFolder(tmp_path / "run"), lambda _: None, on_begin=interrupt)
    given = {name: changes[name] for name in ("calibration", "score", "progress")}
    assert search.join(model, tmp_path / "run", example_input=small_input, **given)
    alone = searched(model, small_input, tmp_path / "alone", **changes)
    assert search.load(tmp_path / "run").best == alone.best


def test_the_number_of_network_trials_is_recorded(small_network, small_input, tmp_path):
    changes = {"score": lambda _: 1.0, "n_network_trials": 2}
    searched(small_network, small_input, tmp_path / "run", **changes)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["settings"]["n_network_trials"] == 2


class Renamed(nn.Module):
    """A network whose layers have other names, or that has other modules by these."""

    def __init__(self, network, other):
        super().__init__()
        self.body = network
        self.add_module("3", other)

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize(
    "other", [nn.Identity(), nn.BatchNorm2d(3, affine=False)], ids=["no weight", "weight None"]
)
def test_a_network_with_other_layers_is_another_one(small_network, small_run, other):
    with pytest.raises(ValueError, match="holds the search of another network: layer"):
        search.join(Renamed(small_network, other), small_run, progress=False)
