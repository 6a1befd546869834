"""Four workers on a real PostgreSQL, two of them killed again and again; and an outage of it."""

import multiprocessing
import time
from collections import Counter
from threading import Timer

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from torch import nn

import search
from search.folder.run_folder import RunFolder
from search.folder.storage import open_storage
from search.per_layer.study import TEMPLATE, LayerStudy
from search.workers.alive import PID
from search.workers.claims import WHAT, WORKER
from tests.trials import claims_in, trials_in

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(  # Optuna keeps its connections until it is collected
        "ignore:.*was deleted while still open:ResourceWarning",
        "ignore:.*Exception ignored in.*Connection:pytest.PytestUnraisableExceptionWarning",
    ),
]
N_WORKERS, N_ROUNDS = 4, 3
SECONDS = 0.1  # of every structure, so that a kill comes in the middle
FORKS = multiprocessing.get_context("forkserver")


def network():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Conv2d(4, 4, 3) for _ in range(6)))


def searched(**where):
    example = torch.zeros(1, 4, 15, 15)
    return search.run(
        network(),
        example,
        budget=search.Budget(flops=0.7),
        n_trials=6,
        max_sequence_length=2,
        include=["*"],
        measure_seconds=0,
        progress=False,
        n_threads=1,
        **where,
    )


def work(folder, url, begins):
    """Search slowly, in a process that may be killed."""
    scored = LayerStudy._score

    def slow(self, point, params):
        time.sleep(SECONDS)
        return scored(self, point, params)

    LayerStudy._score = slow
    if begins:
        searched(run=folder, storage=url)
    else:
        assert search.join(network(), folder, storage=url, progress=False)


def n_complete(storage):
    trials = [trial for found in trials_in(storage).values() for trial in found]
    return sum(trial.state == TrialState.COMPLETE for trial in trials)


def busy(storage):
    """The process numbers of the workers that have a layer in hand."""
    trials = claims_in(storage)
    return {
        trials[trial.user_attrs[WORKER]].user_attrs[PID]
        for trial in trials
        if trial.state == TrialState.RUNNING and WHAT in trial.user_attrs
    }


def until(holds):
    end = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def begun(folder, url, begins=False):
    process = FORKS.Process(target=work, args=(folder, url, begins))
    process.start()
    return process


def test_two_of_four_workers_are_killed_three_times(server, tmp_path):
    FORKS.set_forkserver_preload(["search", "psycopg", __name__])
    whole_storage = optuna.storages.InMemoryStorage()
    patch = pytest.MonkeyPatch()
    patch.setattr("search.folder.recorder.open_storage", lambda _: whole_storage)
    whole = searched(storage="sqlite://")
    patch.undo()
    expected = trials_in(whole_storage)
    n_all = n_complete(whole_storage)

    folder, storage = tmp_path / "run", open_storage(server.url)
    workers = [begun(folder, server.url, begins=True)]
    until(lambda: n_complete(storage) > 0)
    workers += [begun(folder, server.url) for _ in range(N_WORKERS - 1)]
    for turn in range(N_ROUNDS):
        victims = workers[:2]  # at first the one that began
        until(lambda turn=turn: n_complete(storage) > turn * n_all / (N_ROUNDS + 1))
        for victim in victims:
            until(lambda victim=victim: victim.pid in busy(storage))
            victim.kill()
            victim.join()
        workers = workers[2:] + [begun(folder, server.url) for _ in victims]
    assert n_complete(storage) < n_all
    for process in workers:
        process.join(120)
        assert process.exitcode == 0

    found = trials_in(storage)
    assert found.keys() == expected.keys()
    claims = claims_in(storage)
    for trials in (claims, *found.values()):
        assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    for name, trials in expected.items():
        done = [trial for trial in found[name] if trial.state == TrialState.COMPLETE]
        assert [told(trial) for trial in done] == [told(trial) for trial in trials]
    result = search.load(folder, storage=server.url)
    pd.testing.assert_frame_equal(result.candidates(), whole.candidates(), check_exact=True)
    assert result.pareto_front().equals(whole.pareto_front())
    assert result.best == whole.best
    assert (folder / "plan.json").exists()
    assert Counter(trial.state for trial in claims)[TrialState.FAIL] >= 2 * 2 * N_ROUNDS


def told(trial):
    return TEMPLATE in trial.user_attrs, trial.params, trial.values


def test_a_database_that_is_away_for_some_seconds_is_waited_for(server, tmp_path, monkeypatch):
    monkeypatch.setattr("search.workers.worker.BEAT", 1.0)  # some fall into the outage
    whole = searched(run=tmp_path / "whole")
    propose, timers = LayerStudy.propose, []

    def stopping(self):
        if not timers and self.n_proposed == 3:
            server.stop()
            timers.append(Timer(6, server.start))
            timers[0].start()
        propose(self)

    monkeypatch.setattr(LayerStudy, "propose", stopping)
    result = searched(run=tmp_path / "run", storage=server.url)
    timers[0].join()
    assert result.candidates().equals(whole.candidates())
    found = trials_in(open_storage(server.url))
    assert n_complete(open_storage(server.url)) == n_complete(
        RunFolder(tmp_path / "whole").storage()
    )
    states = {trial.state for trials in found.values() for trial in trials}
    assert states <= {TrialState.COMPLETE, TrialState.FAIL}
