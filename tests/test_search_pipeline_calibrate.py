"""Metrics in a search: kept bit by bit, used wherever an error or a factor is computed."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import search
from search import Budget
from search.pipeline.calibrate import FILE, calibrate, read_metrics, write_metrics
from sekron import Plan, Structure, decompose, reconstruct, relative_error
from sekron.calibration.metrics import metrics
from sekron.calibration.moments import moments
from sekron.calibration.sensitivity import LEVELS, divergences, weighed
from sekron.decomposition.metric import Metric

ARGUMENTS = {"n_trials": 1, "max_sequence_length": 2, "measure_seconds": 0, "progress": False}
SEARCHED = ["3", "6", "8", "11"]


def run(network, example, **changes):
    return search.run(network, example, **{"budget": Budget(flops=0.5), **ARGUMENTS, **changes})


def never():
    """Batches that must not be looked at."""
    raise AssertionError("the batches were looked at")
    yield


def same_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


def same_metrics(first, second):
    return list(first) == list(second) and all(
        torch.equal(first[name].output, second[name].output)
        and torch.equal(first[name].input, second[name].input)
        and first[name].sensitivity == second[name].sensitivity
        for name in first
    )


@pytest.fixture(scope="module")
def batches():
    torch.manual_seed(5)
    return list((2.0 * torch.randn(12, 3, 14, 11).abs()).split(5))


@pytest.fixture(scope="module")
def folder(small_network, small_input, batches, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "calibrated"
    run(small_network, small_input, run=path, calibration=batches)
    return path


@pytest.fixture(scope="module")
def result(small_network, small_input, batches):
    return run(small_network, small_input, calibration=batches)


@pytest.fixture
def damaged(folder, tmp_path):
    """A copy of the folder, to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def test_metrics_are_those_of_the_moments_and_divergences(small_network, batches, result):
    weights = {name: small_network.get_submodule(name).weight for name in SEARCHED}
    own = metrics(weights, moments(small_network, SEARCHED, batches))
    found = divergences(small_network, own, [torch.cat(batches)])
    assert same_metrics(weighed(own, found), result.metrics)
    assert calibrate(small_network, result.profile, None, None) == {}


def test_batches_are_gone_through_once(small_network, batches, result):
    pairs = ((x, torch.zeros(len(x))) for x in batches)
    assert same_metrics(calibrate(small_network, result.profile, pairs, None), result.metrics)


def test_divergences_take_fewer_images_of_larger_networks(
    small_network, batches, result, monkeypatch
):
    n_images = 9
    work = result.profile.flops * len(SEARCHED) * len(LEVELS)
    monkeypatch.setattr("search.pipeline.calibrate.WORK", n_images * work)
    weights = {name: small_network.get_submodule(name).weight for name in SEARCHED}
    own = metrics(weights, moments(small_network, SEARCHED, batches))
    found = divergences(small_network, own, [torch.cat(batches)[:n_images]])
    few = calibrate(small_network, result.profile, batches, None)
    assert same_metrics(weighed(own, found), few)
    assert not same_metrics(few, result.metrics)


def test_without_comparable_outputs_the_metric_alone_weighs(
    small_network, batches, result, monkeypatch
):
    def refused(*_):
        raise ValueError("the outputs must keep their shapes.")

    monkeypatch.setattr("search.pipeline.calibrate.divergences", refused)
    weights = {name: small_network.get_submodule(name).weight for name in SEARCHED}
    own = metrics(weights, moments(small_network, SEARCHED, batches))
    with pytest.warns(UserWarning, match=r"keep their shapes\. Layers are weighed by the metric"):
        assert same_metrics(calibrate(small_network, result.profile, batches, None), own)


def test_images_of_many_sizes_are_shown_one_batch_after_another(small_network, batches, result):
    mixed = [*batches, batches[0].repeat(1, 1, 2, 2)]
    found = calibrate(small_network, result.profile, mixed, None)
    assert sum(metric.sensitivity for metric in found.values()) == pytest.approx(len(SEARCHED))


def test_metrics_are_read_as_they_were_written(small_network, batches, result, tmp_path):
    write_metrics(result.metrics, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert same_metrics(read_metrics(SEARCHED, tmp_path), result.metrics)
    assert list(read_metrics(["8"], tmp_path)) == ["8"]
    assert same_metrics(calibrate(small_network, result.profile, never(), tmp_path), result.metrics)


def test_a_metric_may_be_a_view_of_another(tmp_path):
    matrix = torch.rand(4, 4).double().float().double()
    write_metrics({"a": Metric(matrix, matrix.T, 0.1)}, tmp_path)
    found = read_metrics(["a"], tmp_path)["a"]
    assert torch.equal(found.output, matrix)
    assert torch.equal(found.input, matrix.T)
    assert found.sensitivity == 0.1


def test_a_metric_may_be_a_diagonal(tmp_path):
    values = torch.rand(4).double().float().double()
    write_metrics({"a": Metric(values, torch.eye(3).double(), 0.1)}, tmp_path)
    assert torch.equal(read_metrics(["a"], tmp_path)["a"].output, values)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_damaged(damaged, length):
    data = (damaged / FILE).read_bytes()
    (damaged / FILE).write_bytes(data[:length])
    with pytest.raises(ValueError, match=f"{FILE} is damaged: "):
        search.load(damaged)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("8/output", None, "it has no '8/output'"),
        ("8/sensitivity", None, "it has no '8/sensitivity'"),
        ("8/input", torch.zeros(12, 11), "a matrix of layer '8' is not one"),
        ("8/input", torch.full((12, 12), float("nan")), "a matrix of layer '8' is not one"),
    ],
    ids=["no-matrix", "no-number", "not-square", "nan"],
)
def test_a_file_with_a_layer_missing_or_wrong_is_damaged(damaged, part, value, message):
    tensors = load_file(damaged / FILE)
    del tensors[part]
    save_file(tensors | ({} if value is None else {part: value}), damaged / FILE)
    with pytest.raises(ValueError, match=f"{FILE} is damaged: {message}"):
        search.load(damaged)


def test_a_folder_without_its_metrics_cannot_be_loaded(damaged):
    (damaged / FILE).unlink()
    with pytest.raises(FileNotFoundError, match=FILE):
        search.load(damaged)


def test_a_second_run_does_not_look_at_the_batches(small_network, small_input, damaged, result):
    again = run(small_network, small_input, run=damaged, calibration=never())
    assert again.candidates().equals(result.candidates())
    assert same_metrics(again.metrics, result.metrics)


def test_a_loaded_search_gives_the_same_network(small_network, folder, result):
    loaded = search.load(folder)
    assert dict(loaded.best) == dict(result.best) != {}
    assert loaded.candidates().equals(result.candidates())
    assert loaded.layers().equals(result.layers())
    assert same_weights(loaded.best.apply(small_network), result.best.apply(small_network))


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_every_plan_is_decomposed_in_the_metric(small_network, result, share):
    plan = result.plan(Budget(flops=share))
    small = plan.apply(small_network)
    plain = Plan.from_json(plan.to_json()).apply(small_network)
    assert not same_weights(small, plain)
    for name, structure in plan.items():
        weight, metric = small_network.get_submodule(name).weight, result.metrics[name]
        within = reconstruct(decompose(weight, structure, metric=metric), structure)
        torch.testing.assert_close(small.get_submodule(name).dense_weight(), within)
    back = Plan.from_json(plan.to_json()).within(result.metrics)
    assert same_weights(back.apply(small_network), small)


def test_plans_of_the_front_are_decomposed_in_the_metric(small_network, result):
    plan = result.pareto_front()["plan"].iloc[0]
    small = plan.apply(small_network)
    assert same_weights(small, plan.within(result.metrics).apply(small_network))
    assert not same_weights(small, plan.within({}).apply(small_network))


@pytest.mark.parametrize("first", [None, "batches"])
def test_a_folder_is_searched_with_a_calibration_or_without(
    small_network, small_input, small_run, folder, batches, first
):
    path, now = (small_run, batches) if first is None else (folder, None)
    changes = {"max_sequence_length": 3} if first is None else {}
    with pytest.raises(ValueError, match=f"searched with calibrated={now is None}, got"):
        run(small_network, small_input, run=path, calibration=now, **changes)


def test_candidates_have_their_error_in_the_metric(small_network, result):
    frame = result.candidates()
    for row in frame[frame["sequence_length"] > 1].iloc[::20].itertuples():
        weight = small_network.get_submodule(row.layer).weight.detach()
        structure, metric = Structure.parse(row.structure), result.metrics[row.layer]
        assert relative_error(weight, structure, metric) == pytest.approx(row.error, abs=1e-6)


def test_losses_are_the_fourth_powers_of_the_errors_times_the_sensitivities(result):
    known = result.layers().set_index("layer")["sensitivity"]
    assert list(known.dropna().index) == SEARCHED
    assert known.mean() == pytest.approx(1.0)
    frame = result.candidates()
    losses = known[frame["layer"]].to_numpy() * frame["error"].to_numpy() ** 4
    for name, table in result.tables.items():
        own = np.roll(losses[frame["layer"] == name], -1)  # the dense layer comes last
        np.testing.assert_allclose(table.losses(), own, rtol=1e-12)
    of = dict(zip(zip(frame["layer"], frame["structure"], strict=True), losses, strict=True))
    for share in (0.4, 0.7):
        plan = result.plan(Budget(flops=share))
        total = sum(of[name, str(structure)] for name, structure in plan.items())
        assert result.allocate(Budget(flops=share)).loss == pytest.approx(total, rel=1e-9)
    for row in result.pareto_front().itertuples():
        total = sum(of[name, str(structure)] for name, structure in row.plan.items())
        assert row.error == pytest.approx(total, rel=1e-9)


def test_only_a_calibrated_search_has_sensitivities(small_run, result):
    plain = search.load(small_run).layers()
    assert [*plain.columns, "sensitivity"] == list(result.layers().columns)
