"""Metrics in a search: kept bit by bit, used wherever an error or a factor is computed."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import search
from search import Budget
from search.pipeline.calibrate import calibrate
from sekron import Plan, Structure, decompose, reconstruct, relative_error
from sekron.calibration.metrics import DAMPING, POWER
from sekron.calibration.output_kind import KINDS
from sekron.calibration.sensitivity import LEVELS
from sekron.network.network_metric import NetworkMetric
from sekron.profiling.profile import profile

ARGUMENTS = {"n_trials": 1, "max_sequence_length": 2, "measure_seconds": 0, "progress": False}
SEARCHED = ["3", "6", "8", "11"]


class Twins(nn.Module):
    """Two layers of one weight, summed to one number per image; the second counts three times."""

    def __init__(self, norm=None, kept=lambda y: y):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = (nn.Linear(5, 7, bias=False) for _ in range(2))
        self.second.load_state_dict(self.first.state_dict())
        self.norm, self.kept = norm or nn.Identity(), kept
        self.direction = torch.randn(7)

    def forward(self, x):
        y = self.first(x[:, 0]) + 3 * self.second(x[:, 1])  # (N, places, 7)
        return self.kept(self.norm(y.sum(1)) @ self.direction)[:, None]


def calibrated(twins, batches, warn=pytest.fail):
    of_twins = profile(twins, torch.ones(1, 2, 1, 5), include=["first", "second"])
    return calibrate(twins, of_twins, batches, warn, KINDS["values"])


def sensitivities(found):
    return [metric.sensitivity for metric in found.values()]


def run(network, example, **changes):
    return search.run(network, example, **{"budget": Budget(flops=0.5), **ARGUMENTS, **changes})


def never():
    """Batches that must not be looked at."""
    raise AssertionError("the batches were looked at")
    yield


def same_weights(first, second):
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


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


def test_metrics_and_sensitivities_of_twins_are_known():
    twins, x = Twins(), torch.randn(11, 1, 2, 5).expand(-1, 2, -1, -1)
    found = calibrated(twins, x.split(4))
    v, rows = twins.direction.double(), x[:, 0].flatten(0, 1).double()
    moments = {
        "first": (torch.outer(v, v), rows.mT @ rows / 11),
        "second": (9 * torch.outer(v, v), rows.mT @ rows / 11),
    }
    for name, metric in found.items():
        pairs = zip((metric.output, metric.input), moments.pop(name), strict=True)
        for root, own in pairs:
            damped = own + DAMPING * own.diagonal().mean() * torch.eye(len(own)).double()
            product = torch.linalg.matrix_power(root, round(2 / POWER))
            torch.testing.assert_close(product, damped, rtol=1e-4, atol=1e-4)
    assert not moments
    # An error of the second is three times as large in the output, so its divergence nine times.
    assert sensitivities(found) == pytest.approx([0.2, 1.8], rel=1e-4)


def test_batches_are_gone_through_once(small_network, small_input, batches, result):
    pairs = ((x, torch.zeros(len(x))) for x in batches)
    assert run(small_network, small_input, calibration=pairs).metrics == result.metrics


def test_what_the_outputs_are_is_said_or_guessed_with_a_word(
    small_network, small_input, batches, result, capsys
):
    guessed = run(small_network, small_input, calibration=batches, progress=True)
    assert "outputs are taken for logits; if they are not, name" in capsys.readouterr().err
    said = {
        output: run(
            small_network, small_input, calibration=batches, output=output, progress=True
        ).metrics
        for output in ("logits", "values")
    }
    assert "taken for" not in capsys.readouterr().err
    assert guessed.metrics == said["logits"] == result.metrics
    assert said["values"] != result.metrics
    with pytest.raises(ValueError, match="`output` must be logits, values or a function"):
        run(small_network, small_input, calibration=never(), output="images")


@pytest.mark.parametrize(("passes", "n_shown"), [(11.5, 11), (0.0, 8)], ids=["11", "fewest"])
def test_sensitivities_are_of_the_first_images_that_there_is_work_for(passes, n_shown, monkeypatch):
    twins, x = Twins(), torch.randn(n_shown, 1, 1, 5)
    pairs = [torch.cat((x, gain * x), dim=1) for gain in (2.0, 0.0)]
    flops = profile(twins, pairs[0]).flops
    monkeypatch.setattr("search.pipeline.calibrate.WORK", passes * flops * 2 * len(LEVELS))
    # Of those that count, the second layer's error is six times the first's in the output.
    found = calibrated(twins, torch.cat(pairs).split(4))
    assert sensitivities(found) == pytest.approx([2 / 37, 72 / 37], rel=1e-4)


@pytest.mark.parametrize(("n_images", "joined"), [(65, [33, 32]), (269, [64] * 4)])
def test_single_images_are_joined_to_batches_that_batch_norm_can_use(n_images, joined):
    def see(own, x):
        if own.training:
            shown.append(len(x[0]))

    norm, shown = nn.BatchNorm1d(7), []
    norm.register_forward_pre_hook(see)
    calibrated(Twins(norm), torch.randn(n_images, 2, 1, 5).split(1))
    n_passes = len(shown) // len(joined)
    assert n_passes > 2
    assert shown == joined * n_passes


def test_images_of_many_sizes_are_shown_one_batch_after_another():
    x = torch.randn(11, 1, 1, 5)
    both, alone = torch.cat((x, x), dim=1), torch.cat((x, 0 * x), dim=1)
    # Relative to outputs of four times the first layer's and of its own alone, squared errors add
    # up to 1/16 + 1 of the first and 9/16 + 0 of the second.
    found = calibrated(Twins(), [both, alone.repeat(1, 1, 2, 1)])
    assert sensitivities(found) == pytest.approx([17 / 13, 9 / 13], rel=1e-4)


@pytest.mark.parametrize(
    ("batches", "n_notes"),
    [
        ([torch.zeros(4, 2, 1, 5), torch.zeros(3, 2, 1, 5)], 1),
        ([torch.ones(4, 2, 1, 5)], 1),
        ([torch.zeros(4, 2, 1, 5), torch.ones(4, 2, 1, 5)], 0),
        ([torch.eye(5).expand(4, 2, 5, 5)], 0),
    ],
    ids=["zeros", "ones", "both", "eye"],
)
def test_images_that_are_all_one_number_are_told(batches, n_notes):
    notes = []
    calibrated(Twins(), batches, notes.append)
    assert len(notes) == n_notes
    assert all("every number of its first ones is the same" in note for note in notes)


def test_without_comparable_outputs_the_metric_alone_weighs():
    twins, x = Twins(kept=lambda y: y[y > 0.0]), torch.randn(101, 1, 1, 5).expand(-1, 2, -1, -1)
    notes = []
    found = calibrated(twins, [x], notes.append)
    (note,) = notes
    assert re.search(r"keep their shapes.* Layers count by the metric alone", note)
    # Nine times the gradients are three times the square of their fourth root.
    assert sensitivities(found) == pytest.approx([0.5, 1.5], rel=1e-4)


def test_a_folder_without_its_metrics_cannot_be_loaded(damaged):
    (file,) = damaged.glob("metric-*.safetensors")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=file.name):
        search.load(damaged)


def test_a_second_run_does_not_look_at_the_batches(small_network, small_input, damaged, result):
    again = run(small_network, small_input, run=damaged, calibration=never())
    assert again.candidates().equals(result.candidates())
    assert again.metrics == result.metrics


def test_a_loaded_search_gives_the_same_network(small_network, folder, result):
    loaded = search.load(folder)
    assert dict(loaded.best) == dict(result.best) != {}
    assert loaded.candidates().equals(result.candidates())
    assert loaded.layers().equals(result.layers())
    assert same_weights(loaded.best.apply(small_network), result.best.apply(small_network))


def test_the_plan_in_the_folder_gives_the_same_network(small_network, folder, result):
    plan = Plan.load(folder / "plan.json")
    assert plan == result.best
    assert same_weights(plan.apply(small_network), result.best.apply(small_network))


def test_a_metric_serves_another_search(small_network, small_input, result):
    again = run(small_network, small_input, calibration=result.metrics)
    assert again.candidates().equals(result.candidates())
    assert again.best == result.best


@pytest.mark.parametrize("share", [0.4, 0.7])
def test_every_plan_is_decomposed_in_the_metric(small_network, result, share):
    plan = result.plan(Budget(flops=share))
    small = plan.apply(small_network)
    plain = plan.in_plain_error().apply(small_network)
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
    assert not same_weights(small, plan.in_plain_error().apply(small_network))


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


def rebuilt_error(network, plan, known):
    """The error of a plan by its definition, from the dense weights of what it makes."""
    small, total = plan.apply(network), 0.0
    for name in plan:
        whole = network.get_submodule(name).weight.detach().double()
        rest = whole - small.get_submodule(name).dense_weight().detach()
        output, inputs = known[name].output, known[name].input
        sizes = [
            torch.einsum("of,fc...,ci->oi...", output, w, inputs).norm() for w in (rest, whole)
        ]
        total += known[name].sensitivity * float(sizes[0] / sizes[1]) ** 4
    return total


def test_errors_of_plans_are_those_of_their_rebuilt_weights(small_network, result):
    for share in (0.4, 0.7):
        found, plan = result.allocate(Budget(flops=share)), result.plan(Budget(flops=share))
        error = rebuilt_error(small_network, plan, result.metrics)
        assert found.loss == pytest.approx(error, rel=1e-4)
    for row in result.pareto_front().iloc[::5].itertuples():
        error = rebuilt_error(small_network, row.plan, result.metrics)
        assert row.error == pytest.approx(error, rel=1e-4, abs=1e-12)


def test_only_a_calibrated_search_has_sensitivities(small_run, result):
    plain, frame = search.load(small_run).layers(), result.layers()
    assert [*plain.columns, "sensitivity"] == list(frame.columns)
    known = frame.set_index("layer")["sensitivity"].dropna()
    assert list(known.index) == SEARCHED
    assert list(known) == [result.metrics[name].sensitivity for name in SEARCHED]
    assert known.mean() == pytest.approx(1.0)


def test_another_metric_than_the_recorded_one_is_refused(
    small_network, small_input, folder, result
):
    other = {name: replace(m, sensitivity=2.0) for name, m in result.metrics.items()}
    message = f"was searched in the metric {result.metrics.digest[:12]}, got "
    with pytest.raises(ValueError, match=message):
        run(small_network, small_input, run=folder, calibration=NetworkMetric(other))
    same = run(small_network, small_input, run=folder, calibration=result.metrics)
    assert same.best == result.best


@pytest.mark.parametrize("change", [{}, {"8": None}, {"8": "turned"}], ids=str)
def test_a_metric_of_another_network_is_refused(small_network, small_input, result, change):
    metrics = dict(result.metrics) if change else {}
    for name, how in change.items():
        metric = metrics.pop(name)
        if how:
            metrics[name] = replace(metric, output=metric.input, input=metric.output)
    name = "8" if change else "3"
    with pytest.raises(ValueError, match=f"of this network, but has none for layer '{name}' with"):
        run(small_network, small_input, calibration=NetworkMetric(metrics))


class Counting(nn.Sequential):
    """Counts how often it runs, outside of its buffers."""

    n_runs = 0

    def forward(self, x):
        self.n_runs += 1
        return super().forward(x)


def test_the_network_itself_does_not_run():
    torch.manual_seed(0)
    model = Counting(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 12, 3))
    images = [torch.randn(8, 3, 9, 9)]
    budget = search.Budget(flops=0.6)
    search.run(
        model,
        images[0][:1],
        budget=budget,
        n_trials=0,
        calibration=images,
        measure_seconds=0,
        progress=False,
    )
    assert model.n_runs == 0
