"""The study of one layer: its table, its record, and a process that is really killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.folder.journal import open_journal
from search.folder.run_folder import JOURNAL
from search.front.layer_options import LayerOptions
from search.per_layer.identity import digest
from search.per_layer.space import Space
from search.per_layer.study import (
    IDENTITY,
    ORIGIN,
    SPACE,
    TEMPLATE,
    LayerStudy,
    front_volume,
    least_structures,
)
from sekron import relative_error
from sekron.decomposition.metric import Metric
from sekron.profiling.network_profile import LayerProfile
from sekron.rank_curves.curves import Spectra
from sekron.rank_curves.pareto import MIXES
from sekron.rank_curves.table import FRONTS, CandidateTable
from sekron.structures.geometry import Geometry

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def study_of(weight, storage=None, n_calls=1, **settings):
    shape = tuple(weight.shape)
    calls = tuple(Geometry.of(shape, (7 + k, 5)) for k in range(n_calls))
    return LayerStudy("layer", Spectra(weight, calls), Space(shape, 3), storage=storage, **settings)


def assert_same_table(first, second):
    assert first.points == second.points
    assert first.ranks == second.ranks
    for column in ("point", "errors", "flops", "params"):
        np.testing.assert_array_equal(getattr(first, column), getattr(second, column))


@pytest.mark.parametrize("n_calls", [1, 2])
@pytest.mark.parametrize("sampler", ["neighbour", "random"])
def test_the_replayed_table_is_the_table(small_weight, sampler, n_calls):
    storage = InMemoryStorage()
    study = study_of(small_weight, storage, n_calls, sampler=sampler)
    study.run(12)
    again = study_of(small_weight, storage, n_calls, sampler=sampler)
    assert again.n_proposed == 12
    assert again.n_scored == study.n_scored
    assert_same_table(again.table, study.table)


def test_rows_are_what_their_structures_say(small_weight):
    study = study_of(small_weight, n_calls=2)
    study.run(6)
    table = study.table
    for row in range(0, len(table), 7):
        structure = table.structure(row)
        assert structure.n_params == table.params[row]
        assert structure.flops((7, 5)) + structure.flops((8, 5)) == table.flops[row]
        assert relative_error(small_weight, structure) == pytest.approx(table.errors[row], abs=1e-6)


def test_no_row_is_beaten_for_every_mix(small_weight):
    study = study_of(small_weight)
    study.run(6)
    kept = set(np.concatenate([study.table.front(mix) for mix in MIXES]).tolist())
    assert kept == set(range(len(study.table)))


def test_duplicates_are_not_scored_twice(small_weight):
    weight = small_weight[:2, :2, :, :1].contiguous()  # a space small enough to draw from twice
    study = study_of(weight, sampler="random")
    scored = []
    original = study.spectra.curve
    study.spectra.curve = lambda *point: scored.append(point) or original(*point)
    study.run(40)
    assert len(scored) == len(set(scored)) == study.n_scored < 40
    assert len(study.study.trials) == 40 + len(study.space.templates())
    assert all(trial.state == TrialState.COMPLETE for trial in study.study.trials)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "neighbour"])
def test_a_structure_is_one_line_of_the_journal(tmp_path, small_weight, sampler):
    study = study_of(small_weight, open_journal(tmp_path / JOURNAL), sampler=sampler)
    lines = len((tmp_path / JOURNAL).read_text().splitlines())
    study.run(9)
    written = len((tmp_path / JOURNAL).read_text().splitlines()) - lines
    assert written == n_templates(small_weight) + 9
    for trial in study.study.trials:
        assert trial.system_attrs.keys() == study._asked.trials[trial.number].system_attrs.keys()


def test_the_dense_layer_is_always_a_candidate():
    weight = torch.randn(7, 1, dtype=torch.float64)  # nothing can be factorized
    study = study_of(weight)
    study.run(2)
    assert len(study.table) == 0
    assert front_volume(study.table, 1.0) == 0.0
    layer = LayerProfile("fc", "Linear", (7, 1), study.spectra.geometries, 7, 7, "")
    choices = LayerOptions.of(layer, study.table, None)
    assert choices.losses.tolist() == [0.0]
    assert choices.flops.tolist() == [study.table.dense_flops]
    assert choices.params.tolist() == [7]


def test_a_trial_is_worth_the_hypervolume_of_its_structure(small_weight):
    study = study_of(small_weight)
    study.run(3)
    for trial in study.study.trials:
        own = CandidateTable(study.table.dense_flops, study.table.dense_params)
        own.add(study.spectra.curve(*study.space.point(trial.params)))
        assert tuple(trial.values) == tuple(front_volume(own, mix) for mix in FRONTS)


def test_least_structures_are_the_templates_at_rank_one():
    space = Space((8, 6, 3, 2), 3)
    geometry = Geometry.of(space.weight_shape, (7, 5), stride=2)
    least = least_structures(space.templates(), (geometry, geometry))
    assert [(s.family, s.shapes) for s, _, _ in least] == list(space.templates())
    for structure, flops, params in least:
        assert set(structure.ranks) == {1}
        assert flops == 2 * structure.flops((7, 5), stride=2)
        assert params == structure.n_params


SEARCHES = """
    import json, os, signal, sys, torch
    from pathlib import Path
    from search.per_layer.study import LayerStudy
    from search.folder.run_folder import JOURNAL
    from search.folder.journal import open_journal
    from search.per_layer.space import Space
    from sekron.structures.geometry import Geometry
    from sekron.rank_curves.curves import Spectra

    weight = torch.load(sys.argv[1])
    shape = tuple(weight.shape)

    def killing(function, count):
        calls = []
        def called(*arguments):
            calls.append(1)
            if len(calls) == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)
        return called

    for path, place, count in json.loads(sys.argv[2]):
        if child := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
            continue
        signal.alarm(20)  # ends one that hangs
        if place == "score":
            Spectra.curve = killing(Spectra.curve, count)
        if place == "write":
            os.fsync = killing(os.fsync, count)
        spectra = Spectra(weight, (Geometry.of(shape, (7, 5)),))
        folder = Path(os.path.relpath(path) if place == "write" else path)
        storage = open_journal(folder / JOURNAL)
        LayerStudy("layer", spectra, Space(shape, 3), storage=storage).run(12)
        os._exit(0)
"""


@pytest.fixture(scope="module")
def killed(small_weight, tmp_path_factory):
    """Folders of searches that kill themselves at the n-th call of a function; their exit codes."""
    parent = tmp_path_factory.mktemp("killed")
    jobs = [
        ("templates", "score", 21),
        ("proposals", "score", n_templates(small_weight) + 6),
        ("writing", "write", 30),
        ("writing", "write", 10**9),  # goes on to its end
    ]
    for name, _, _ in jobs:
        (parent / name).mkdir(exist_ok=True)
    torch.save(small_weight, parent / "weight.pt")
    given = json.dumps([(str(parent / name), place, count) for name, place, count in jobs])
    program = textwrap.dedent(SEARCHES)
    command = [sys.executable, "-c", program, str(parent / "weight.pt"), given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True, timeout=120
    )
    return parent, [int(code) for code in done.stdout.split()]


def n_templates(weight):
    return len(Space(tuple(weight.shape), 3).templates())


@pytest.mark.parametrize("place", ["templates", "proposals"])
def test_a_killed_search_ends_with_the_same_table(tmp_path, small_weight, killed, place):
    straight = study_of(small_weight)
    straight.run(12)
    parent, codes = killed
    assert codes[:2] == [-signal.SIGKILL] * 2
    done = 20 if place == "templates" else n_templates(small_weight) + 5
    shutil.copytree(parent / place, tmp_path, dirs_exist_ok=True)
    study = study_of(small_weight, open_journal(tmp_path / JOURNAL))
    assert study.n_scored == done  # only the structure in flight was lost
    study.run(12)
    assert study.n_proposed == 12
    assert_same_table(study.table, straight.table)


def test_a_killed_search_keeps_all_finished_trials(tmp_path, small_weight, killed):
    templates = n_templates(small_weight)
    shutil.copytree(killed[0] / "proposals", tmp_path, dirs_exist_ok=True)
    storage = open_journal(tmp_path / JOURNAL)
    before = [t.values for t in optuna.load_study(study_name="layer", storage=storage).trials]
    resumed = study_of(small_weight, storage)
    resumed.run(12)
    trials = resumed.study.trials
    assert [t.values for t in trials[: len(before)]] == before
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len(trials) == templates + 12
    assert sum(TEMPLATE in trial.user_attrs for trial in trials) == templates
    replayed = study_of(small_weight, storage)
    assert_same_table(replayed.table, resumed.table)


def test_a_search_killed_while_it_writes_goes_on(killed):
    assert killed[1][2:] == [-signal.SIGKILL, 0]


def test_a_journal_that_ends_in_half_a_line_goes_on(tmp_path, small_weight):
    study_of(small_weight, open_journal(tmp_path / JOURNAL)).run(2)
    journal = tmp_path / "study.log"
    journal.write_bytes(journal.read_bytes()[:-40])
    study = study_of(small_weight, open_journal(tmp_path / JOURNAL))
    study.run(3)
    assert study_of(small_weight, open_journal(tmp_path / JOURNAL)).n_proposed == 3


def test_a_storage_keeps_searches_of_other_weights_apart(small_weight):
    storage = InMemoryStorage()
    calls = (Geometry.of(tuple(small_weight.shape), (7, 5)),)
    metric = Metric(2.0 * torch.eye(8).double(), torch.eye(6).double())
    study_of(small_weight, storage)
    study_of(small_weight, storage)
    for other in (Spectra(2 * small_weight, calls), Spectra(small_weight, calls, metric)):
        with pytest.raises(ValueError, match="is of another weight or in another metric"):
            LayerStudy("layer", other, Space(tuple(small_weight.shape), 3), storage=storage)


def calibrated_study(weight, metric, storage):
    shape = tuple(weight.shape)
    spectra = Spectra(weight, (Geometry.of(shape, (7, 5)),), metric)
    return LayerStudy("layer", spectra, Space(shape, 3), storage=storage)


@pytest.fixture
def metric():
    torch.manual_seed(3)
    output, inputs = (torch.rand(n, n, dtype=torch.float64) for n in (8, 6))
    return Metric(output @ output.T + torch.eye(8), inputs @ inputs.T + torch.eye(6), 7.0)


def test_a_calibrated_study_goes_on_where_products_end_in_other_bits(
    monkeypatch, small_weight, metric
):
    storage = InMemoryStorage()
    calibrated_study(small_weight, metric, storage).run(1)
    whiten = Metric.whiten
    monkeypatch.setattr(Metric, "whiten", lambda *a: whiten(*a) * (1.0 + 1e-15))
    assert calibrated_study(small_weight, metric, storage).n_proposed == 1
    for weight, other in (
        (2 * small_weight, metric),
        (small_weight, replace(metric, output=2.0 * metric.output)),
        (small_weight, replace(metric, input=2.0 * metric.input)),
        (small_weight, None),
    ):
        with pytest.raises(ValueError, match="is of another weight or in another metric"):
            calibrated_study(weight, other, storage)


def test_a_calibrated_study_of_an_earlier_release_goes_on(small_weight, metric):
    storage = InMemoryStorage()
    before = optuna.create_study(
        storage=storage, study_name="layer", directions=["maximize"] * len(FRONTS)
    )
    before.set_user_attr(IDENTITY, digest(metric.whiten(small_weight.double())))
    calibrated_study(small_weight, metric, storage)
    with pytest.raises(ValueError, match="is of another weight or in another metric"):
        calibrated_study(2 * small_weight, metric, storage)


def test_a_study_without_an_origin_goes_on_and_gets_one(small_weight):
    """Those of earlier releases."""
    storage, elsewhere = InMemoryStorage(), InMemoryStorage()
    study_of(small_weight, elsewhere, seed=1).run(2)
    whole = optuna.load_study(study_name="layer", storage=elsewhere)
    before = optuna.create_study(
        storage=storage, study_name="layer", directions=["maximize"] * len(FRONTS)
    )
    for key in (IDENTITY, SPACE):
        before.set_user_attr(key, whole.user_attrs[key])
    before.add_trials(whole.trials)
    assert study_of(small_weight, storage, seed=1).n_proposed == 2
    assert before.user_attrs[ORIGIN] == whole.user_attrs[ORIGIN]
    for changes in ({"seed": 2}, {"seed": 1, "sampler": "tpe"}, {"seed": 1, "n_calls": 2}):
        with pytest.raises(ValueError, match="by another sampler or seed, or for another input"):
            study_of(small_weight, storage, **changes)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "neighbour"])
def test_a_cp_is_enumerated_but_not_proposed(small_weight, sampler):
    study = study_of(small_weight, sampler=sampler)
    study.run(12)
    families = [
        (TEMPLATE in trial.user_attrs, study.space.families[trial.params["family"]])
        for trial in study.study.trials
    ]
    assert (True, "cp") in families
    assert (False, "cp") not in families
