"""Factors that are kept in a run folder: the same ones, for their writer alone, within a limit."""

import os
from pathlib import Path

import platformdirs
import pytest
import torch
from torch import nn

import search
from search.folder import factor_cache
from search.folder.factor_cache import CODE_BYTES, FactorCache
from sekron import Structure, decompose
from sekron.decomposition.errors import relative_errors
from sekron.decomposition.metric import Metric

CP = Structure.parse("cp:6x1x1x1,1x5x1x1,1x1x3x1,1x1x1x3@4")
OTHER = Structure.parse("cp:6x1x1x1,1x5x1x1,1x1x3x1,1x1x1x3@3")
SVD = Structure.parse("chain:6x1x3x1,1x5x1x3@4")


@pytest.fixture
def weight():
    return torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def metric():
    half = torch.randn(6, 6, dtype=torch.float64), torch.randn(5, 5, dtype=torch.float64)
    return Metric(*(h @ h.T + torch.eye(len(h)) for h in half))


@pytest.fixture
def calls(monkeypatch):
    """What was decomposed, as the cache asked for it."""
    made = []

    def counted(weight, structure, *, metric=None):
        made.append(structure)
        return decompose(weight, structure, metric=metric)

    monkeypatch.setattr(factor_cache, "decompose", counted)
    return made


def equal(factors, others):
    return all(map(torch.equal, factors, others))


@pytest.mark.parametrize("structure", [CP, SVD])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_what_was_computed_is_not_computed_again(tmp_path, weight, calls, structure, dtype):
    weight = weight.to(dtype)
    expected = decompose(weight, structure)
    for cache in (
        FactorCache(tmp_path / "f", keeps=True),
        FactorCache(tmp_path / "f", keeps=False),
    ):
        factors = cache(weight, structure)
        assert equal(factors, expected)
        assert [(a.dtype, a.shape) for a in factors] == [(a.dtype, a.shape) for a in expected]
    assert calls == [structure]


def test_another_question_has_another_answer(tmp_path, weight, metric, calls):
    cache = FactorCache(tmp_path, keeps=True)
    questions = [(weight, CP, None), (weight, OTHER, None), (2 * weight, CP, None)]
    questions += [(weight.double(), CP, None), (weight, CP, metric)]
    for _ in range(2):
        for own, structure, own_metric in questions:
            factors = cache(own, structure, metric=own_metric)
            assert equal(factors, decompose(own, structure, metric=own_metric))
    assert len(calls) == len(questions)


def test_a_reader_writes_nothing(tmp_path, monkeypatch, weight):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "factors").mkdir()
    FactorCache(tmp_path / "factors", keeps=False)(weight, CP)
    assert list(tmp_path.rglob("*")) == [tmp_path / "factors"]


def damaged(content):
    yield b""
    yield content[: CODE_BYTES + 3]
    yield content[:-1]
    yield content[:-1] + bytes([content[-1] ^ 1])
    yield bytes(CODE_BYTES) + content[CODE_BYTES:]


def test_a_damaged_file_is_made_again(tmp_path, weight, calls):
    cache = FactorCache(tmp_path, keeps=True)
    expected = cache(weight, CP)
    (path,) = tmp_path.glob("*")
    whole = path.read_bytes()
    for number, content in enumerate(damaged(whole), start=2):
        path.write_bytes(content)
        assert equal(cache(weight, CP), expected)
        assert len(calls) == number
        assert path.read_bytes() == whole


def test_a_strangers_factors_are_not_taken(tmp_path, monkeypatch, weight, calls):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs"))
    FactorCache(tmp_path / "run", keeps=True)(weight, CP)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "mine"))
    FactorCache(tmp_path / "run", keeps=False)(weight, CP)
    FactorCache(tmp_path / "run", keeps=True)(weight, CP)
    assert calls == [CP] * 3


def test_factors_are_not_taken_for_others_under_another_name(tmp_path, weight, calls):
    cache = FactorCache(tmp_path, keeps=True)
    cache(weight, CP)
    (of_cp,) = tmp_path.glob("*")
    cache(weight, OTHER)
    (of_other,) = set(tmp_path.glob("*")) - {of_cp}
    of_other.write_bytes(of_cp.read_bytes())
    assert equal(cache(weight, OTHER), decompose(weight, OTHER))
    assert calls == [CP, OTHER, OTHER]


def test_the_secret_is_for_its_user_alone(tmp_path, monkeypatch, weight):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    FactorCache(tmp_path / "run", keeps=True)(weight, CP)
    (secret,) = (path for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert secret.stat().st_mode & 0o777 == 0o600
    secret.write_bytes(b"cut")
    for _ in range(2):
        assert equal(FactorCache(tmp_path / "run", keeps=True)(weight, CP), decompose(weight, CP))
    assert len(secret.read_bytes()) == CODE_BYTES


def test_what_was_not_used_for_longest_makes_room(tmp_path, monkeypatch, weight, calls):
    structures = [Structure.parse(f"sekron:6x1x3x1,1x5x1x3@{rank}") for rank in range(1, 8)]
    for structure in structures:
        FactorCache(tmp_path / "sizes", keeps=True)(weight, structure)
    largest = max(path.stat().st_size for path in (tmp_path / "sizes").iterdir())
    monkeypatch.setattr(factor_cache, "PART", largest)
    monkeypatch.setattr(factor_cache, "LIMIT", 4 * largest)
    run = tmp_path / "run"
    run.mkdir()
    others = run / "mine.factors", run / ("x" + "0" * 63 + ".factors")
    for path in others:
        path.touch()
    (run / f"{'1' * 64}.factors").symlink_to("nowhere")
    (run / f"{'2' * 64}.factors").mkdir()
    left = run / f".{'3' * 64}.factors.0123456789ab"  # of a process that was killed
    left.write_bytes(bytes(largest))
    for path in (*others, run / f"{'2' * 64}.factors", left):
        os.utime(path, (0, 0))
    clock = iter(range(1, 100))
    for structure in [*structures[:3], structures[0], *structures[3:]]:
        FactorCache(run, keeps=True)(weight, structure)
        files = [path for path in run.glob(factor_cache.NAMES) if path.is_file()]
        newest = max(files, key=lambda path: path.stat().st_mtime_ns)
        os.utime(newest, 2 * (next(clock),))
        assert sum(path.stat().st_size for path in files) <= factor_cache.LIMIT
    assert all(path.exists() for path in others)  # which nobody else may remove
    assert not left.exists()
    del calls[:]
    FactorCache(run, keeps=False)(weight, structures[-1])
    assert not calls
    FactorCache(run, keeps=False)(weight, structures[1])
    assert calls == [structures[1]]


def test_what_is_too_large_is_neither_kept_nor_read(tmp_path, monkeypatch, weight, calls):
    with monkeypatch.context() as patched:
        patched.setattr(factor_cache, "PART", 10)
        FactorCache(tmp_path, keeps=True)(weight, CP)
    assert not list(tmp_path.iterdir())
    FactorCache(tmp_path, keeps=True)(weight, CP)
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.truncate(2**43)
    assert equal(FactorCache(tmp_path, keeps=False)(weight, CP), decompose(weight, CP))
    assert calls == [CP] * 3


def test_a_user_without_a_home_keeps_nothing(tmp_path, monkeypatch, weight):
    def homeless(_):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_state_path", homeless)
    assert equal(FactorCache(tmp_path / "run", keeps=True)(weight, CP), decompose(weight, CP))
    assert not (tmp_path / "run").exists()


def test_a_weight_without_values_is_refused_as_always(tmp_path, weight):
    with pytest.raises(ValueError, match="is on the `meta` device"):
        FactorCache(tmp_path, keeps=True)(weight.to("meta"), CP)


def test_it_stays_in_its_folder_wherever_the_process_goes(tmp_path, monkeypatch, weight, calls):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cache = FactorCache(Path("factors"), keeps=True)
    monkeypatch.chdir(tmp_path / "there")
    for _ in range(2):
        cache(weight, CP)
    assert calls == [CP]
    assert not list((tmp_path / "there").iterdir())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_fits_that_no_plan_is_applied_with_are_not_kept(tmp_path, weight, calls, dtype):
    relative_errors(weight.to(dtype), [CP], None, FactorCache(tmp_path, keeps=True))
    assert not calls


def test_where_nothing_can_be_kept_all_is_computed(tmp_path, monkeypatch, weight):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "no" / "where"):
        assert equal(FactorCache(folder, keeps=True)(weight, CP), decompose(weight, CP))
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    FactorCache(tmp_path / "link", keeps=True)(weight, CP)
    assert not list((tmp_path / "outside").iterdir())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    FactorCache(tmp_path / "run", keeps=True)(weight, CP)
    assert not (tmp_path / "run").exists()


def test_a_plan_takes_what_its_search_has_fitted(tmp_path, calls):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3)).eval()
    found = search.run(
        model,
        torch.randn(1, 3, 12, 12),
        budget=search.Budget(flops=0.5),
        families=("cp",),
        max_sequence_length=4,
        n_trials=0,
        measure_seconds=0,
        run=tmp_path / "run",
        progress=False,
    )
    assert found.best
    del calls[:]
    small = found.best.apply(model)
    again = search.load(tmp_path / "run").best.apply(model)
    assert not calls
    for name, structure in found.best.items():
        weight = model.get_submodule(name).weight
        for network in (small, again):
            layer = network.get_submodule(name)
            assert equal(layer.factors(), decompose(weight, structure))
