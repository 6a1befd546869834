"""What a search says of its own length; the times here are made up."""

from collections import Counter

import optuna
import pytest
import torch
from torch import nn

import search
from search.folder.run_folder import RunFolder
from search.per_layer.cost import proposal_seconds, template_seconds
from search.per_layer.depth import FULL_SHARE, n_cp_ranks_of, n_trials_of
from search.per_layer.space import DEFAULT_FAMILIES, Space
from search.per_layer.study import TEMPLATE, LayerStudy
from search.pipeline import foresight
from search.pipeline.foresight import LayerWork, announcement, in_words
from sekron.profiling.network_profile import LayerProfile, NetworkProfile
from sekron.rank_curves.curves import Spectra
from sekron.structures.families import FAMILIES
from sekron.structures.geometry import Geometry


def layer_of(flops, params):
    return LayerProfile("l", "Conv2d", (2, 2, 1, 1), (), flops, params, "")


def profile_of(flops, params):
    return NetworkProfile(flops, params, (), {})


@pytest.mark.parametrize(
    ("flops", "params", "expected"),
    [
        (0.5, 0.0, 50),
        (0.0, 0.5, 50),
        (FULL_SHARE, 0.0, 50),
        (FULL_SHARE / 2, FULL_SHARE / 10, 25),
        (FULL_SHARE / 10, FULL_SHARE / 2, 25),
        (FULL_SHARE / 50.001, 0.0, 1),
        (1e-9, 0.0, 1),
    ],
)
def test_trials_follow_the_share_of_flops_or_parameters(flops, params, expected):
    network = profile_of(10**12, 10**9)
    layer = layer_of(round(flops * 10**12), round(params * 10**9))
    assert n_trials_of(layer, network, 50) == expected
    assert n_trials_of(layer, network, 0) == 0


@pytest.mark.parametrize(
    ("flops", "params", "expected"),
    [(0.5, 0.0, 16), (0.0, FULL_SHARE, 16), (FULL_SHARE / 1.5, 0.0, 11), (1e-9, 0.0, 8)],
)
def test_a_cp_of_what_matters_little_is_fitted_at_fewer_ranks(flops, params, expected):
    network = profile_of(10**12, 10**9)
    layer = layer_of(round(flops * 10**12), round(params * 10**9))
    assert n_cp_ranks_of(layer, network) == expected


def test_a_layer_that_matters_little_has_a_cp_at_fewer_ranks():
    torch.manual_seed(0)
    large, small = nn.Conv2d(128, 128, 3, padding=1), nn.Conv2d(8, 8, 3)
    result = search.run(
        nn.Sequential(large, nn.Conv2d(128, 8, 1), small).eval(),
        torch.zeros(1, 128, 5, 5),
        budget=search.Budget(flops=0.5),
        families=("cp",),
        include=["0", "2"],
        n_trials=0,
        max_sequence_length=3,
        measure_seconds=0,
        progress=False,
    )
    ranks = {
        name: max(Counter(table.structure(row).shapes for row in range(len(table))).values())
        for name, table in result.tables.items()
    }
    assert ranks["0"] > 8 >= ranks["2"] > 1


@pytest.mark.parametrize("n_layers", [10, 349, 5000])
def test_the_trials_of_all_layers_are_bounded_however_many_there_are(n_layers):
    network = profile_of(n_layers * 1000, n_layers * 10)
    total = n_layers * n_trials_of(layer_of(1000, 10), network, 50)
    assert total <= 2 * 50 / FULL_SHARE + n_layers
    assert total == min(n_layers * 50, total)


@pytest.fixture(scope="module")
def uneven():
    """A network of which one searched layer has next to nothing."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.Conv2d(16, 40, 3), nn.Conv2d(40, 2, 1), nn.Conv2d(2, 40, 3)
    )
    return network.eval(), torch.randn(1, 3, 9, 9)


ARGUMENTS = {"n_trials": 10, "max_sequence_length": 2, "measure_seconds": 0}


def proposals(folder, name):
    study = search_study(folder, name)
    return [trial.params for trial in study.trials if TEMPLATE not in trial.user_attrs]


def search_study(folder, name):
    return optuna.load_study(study_name=f"sekron/{name}", storage=RunFolder(folder).storage())


def test_a_layer_that_matters_little_gets_the_first_of_the_same_trials(
    uneven, tmp_path, monkeypatch
):
    arguments = {"budget": search.Budget(flops=0.5), "progress": False, **ARGUMENTS}
    monkeypatch.setattr("search.per_layer.depth.FULL_SHARE", 0.05)
    result = search.run(*uneven, run=tmp_path / "by_share", **arguments)
    assert search.load(tmp_path / "by_share").best == result.best
    monkeypatch.setattr("search.per_layer.depth.FULL_SHARE", 1e-9)
    search.run(*uneven, run=tmp_path / "all", **arguments)
    for layer in result.profile.searched:
        deep = proposals(tmp_path / "all", layer.name)
        shallow = proposals(tmp_path / "by_share", layer.name)
        assert len(deep) == 10
        assert shallow == deep[: len(shallow)]
        assert (len(shallow) == 10) == (layer.name != "2")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", [(30, 7), (8, 6, 3, 2), (64, 2, 1, 1)], ids=str)
def test_every_step_of_a_layer_has_its_time(family, shape):
    families = tuple(dict.fromkeys((family, "sekron")))
    work = LayerWork.of(Space(shape, 3, families), 1, 4)
    assert len(work.templates) == len(Space(shape, 3, families).templates())
    assert len(list(work.steps)) == len(work.templates) + 4
    assert min(work.steps) > 0
    assert work.seconds == pytest.approx(sum(work.steps))


def test_a_billion_proposals_take_no_memory_before_they_are_made():
    work = LayerWork.of(Space((8, 6, 3, 3), 3, ("sekron",)), 1, 10**9)
    assert work.seconds == pytest.approx(sum(work.templates) + 1e9 * work.proposal)
    assert next(work.steps) == work.templates[0]


def test_a_study_takes_as_many_steps_as_were_foreseen(small_weight):
    shape = tuple(small_weight.shape)
    spectra = Spectra(small_weight, (Geometry.of(shape, (7, 5)),))
    study = LayerStudy("layer", spectra, Space(shape, 2))
    n_templates, steps = len(study.space.templates()), []
    study.run(3, steps.append)
    assert steps == [True for _ in LayerWork.of(study.space, 1, 3).steps]
    again = []
    study.run(5, again.append)
    assert again == [False] * (n_templates + 3) + [True] * 2
    fewer = []
    study.run(2, fewer.append)
    assert fewer == [False] * (n_templates + 2)


def total(shape, groups=1):
    space = Space(shape, 3, DEFAULT_FAMILIES)
    return sum(template_seconds(space, groups)) + 50 * proposal_seconds(space, groups)


def test_larger_layers_take_longer():
    kernels = [total((size, size, 3, 3)) for size in (16, 64, 256, 512)]
    assert kernels == sorted(kernels)
    linear = [total((size, 512)) for size in (64, 512, 4096, 32768)]
    assert linear == sorted(linear)
    assert total((64, 64, 3, 3), groups=4) > 2 * total((64, 64, 3, 3))


def test_what_is_long_is_said_before(monkeypatch):
    monkeypatch.setattr(foresight, "slowness", lambda: 2.0)
    works = [LayerWork([1.0, 3.0], 0.5, 12), *(LayerWork([2.0], 0.0, 0) for _ in range(20))]
    assert announcement(works, n_threads=1) == (
        "21 layers take about 2 min to search, the longest 20% of it; `min_share`, `exclude` or "
        "fewer trials (`n_trials`, `--trials`) make it shorter."
    )
    assert announcement(works, n_threads=40) == ""  # 2 · 10 s, those of the longest
    many = [LayerWork([4.0], 0.0, 0) for _ in range(30)]
    assert announcement(many, n_threads=2).startswith("30 layers take about 2 min to search, ")
    assert announcement(works[1:5], n_threads=1) == ""
    assert announcement([], n_threads=1) == ""


def test_the_machine_is_asked_once_and_only_about_work(monkeypatch):
    asked, eigh = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: asked.append(a.shape) or eigh(a))
    foresight.slowness.cache_clear()
    assert announcement([], n_threads=1) == announcement([LayerWork([], 0.0, 0)], 1) == ""
    assert asked == []
    assert foresight.slowness() == foresight.slowness()
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("seconds", "words"), [(61, "61 s"), (95, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words


def test_a_search_says_it_once(uneven, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(foresight, "LONG", 0.0)
    arguments = {"budget": search.Budget(flops=0.5), "run": tmp_path / "run", **ARGUMENTS}
    search.run(*uneven, **arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if "to search" in line]
    assert len(said) == 1
    assert said[0].startswith("3 layers take about ")
    monkeypatch.setattr(foresight, "LONG", 1e-9)
    search.run(*uneven, **arguments)  # there is nothing left to do
    assert "to search" not in capsys.readouterr().err
    search.run(*uneven, **{**arguments, "run": None}, progress=False)
    assert capsys.readouterr().err == ""
