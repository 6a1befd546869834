"""A real PostgreSQL: searched in, stopped while it is searched in, and then one line."""

from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
import torch
from sqlalchemy.exc import OperationalError
from torch import nn

import search
from search.folder import outage
from search.folder.storage import open_storage, read_storage
from tests.postgresql import PASSWORD
from tests.test_search_folder_run_folder import run

pytestmark = pytest.mark.filterwarnings(  # Optuna keeps its connections until it is collected
    "ignore:.*was deleted while still open:ResourceWarning",
    "ignore:.*Exception ignored in.*Connection:pytest.PytestUnraisableExceptionWarning",
)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))


def searched(folder, url, **changes):
    example = torch.zeros(1, 3, 9, 9)
    options = {"n_trials": 4, "max_sequence_length": 2, "include": ["*"], **changes}
    return run(network(), example, run=folder, storage=url, **options)


def test_many_may_make_the_tables_of_an_empty_database_at_once(server):
    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(open_storage, 8 * [server.url]))
    assert [optuna.get_all_study_names(storage) for storage in opened] == 8 * [[]]


@pytest.mark.slow
def test_a_database_that_goes_is_told_in_one_line_and_gone_on_with(server, tmp_path, monkeypatch):
    whole = searched(tmp_path / "whole", None)
    from search.per_layer.study import LayerStudy  # noqa: PLC0415  as it is patched

    propose, calls = LayerStudy.propose, []

    def stopping(self):
        calls.append(1)
        if len(calls) == 3:
            server.stop()
        propose(self)

    monkeypatch.setattr(LayerStudy, "propose", stopping)
    monkeypatch.setattr(outage, "OUTAGE", 1.0)
    with pytest.raises(ConnectionError, match=r"^the storage .* must stay reachable, ") as caught:
        searched(tmp_path / "run", server.url, n_threads=1)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 900
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    for open_ in (open_storage, read_storage):
        with pytest.raises(ValueError, match="must open, but it raised"):
            open_(server.url)
    server.start()
    result = searched(tmp_path / "run", server.url)
    assert result.candidates().equals(whole.candidates())
    assert search.load(tmp_path / "run", storage=server.url).best == whole.best


def test_a_trial_like_an_earlier_one_is_not_taken_for_it_after_an_outage(tmp_path, monkeypatch):
    """A structure that is proposed again makes trials that are equal but for their time."""
    monkeypatch.setattr(outage, "PAUSE", 0.0)
    storage = optuna.storages.get_storage(f"sqlite:///{tmp_path}/trials.db")
    create, failing = storage.create_new_trial, []

    def flaky(*arguments, **named):
        if failing:
            raise OperationalError("insert", {}, failing.pop())
        return create(*arguments, **named)

    storage.create_new_trial = flaky
    study = optuna.create_study(storage=outage.waiting_out(storage))
    for error in ([], [], [Exception("connection refused")]):
        failing += error
        study.add_trial(optuna.trial.create_trial(value=0.5))
    assert len(study.trials) == 3
