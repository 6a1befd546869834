"""Searches for latency in a world whose clock is a formula; no test here looks at the time."""

import copy
import json
import sys
import time
import warnings
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import search
from search import Budget, InfeasibleBudget
from search.clock.candidate_times import forms as forms_of_structure
from search.clock.race import EAGER
from search.clock.stopwatch import Stopwatch
from search.clock.times import LayerTime
from search.clock.timetable import Timetable
from search.clock.timetable_record import to_json
from search.folder.recorder import Nobody
from search.folder.run_folder import RunFolder
from search.front import sweep
from search.front.sweep import front_members
from search.pipeline.request import request_of
from search.pipeline.search import search_network
from search.whole_network.tightening import tightened
from search.whole_network.within_latency import WORTHWHILE
from sekron.export.refusal import CannotRun
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.plan import Plan
from sekron.network.surgery import forms_of, structures_of
from sekron.profiling.count import count_flops
from sekron.structures.structure import Structure
from tests.trials import trials_in

REALIZED = 0.8
MS_PER_FLOP = 1e-4
REST_MS = 1.0
AMPLE = 1e6
ARGUMENTS = {
    "n_trials": 2,
    "max_sequence_length": 2,
    "measure_seconds": AMPLE,
    "progress": False,
}


def lottery(text):
    """A number in [0, 1) that the text decides."""
    return zlib.crc32(text.encode()) / 2**32


class World:
    """Times that follow from structures, and a count of what was asked for.

    A structure takes some constant time and some per FLOP, unlike for each; matrix products and
    other orders help some and harm others. Of what the layers save, a network saves a part.
    """

    def __init__(self, profile):
        self.profile = profile
        self.slowness = 1.0
        self.overhead = 0.0  # of every replaced layer, as a share of the dense network's time
        self.starts = self.races = self.networks = 0
        self.now = time.perf_counter

    @property
    def measured(self):
        return self.starts, self.races, self.networks

    def ratio(self, layer, structure, form):
        """Time of a structure over the dense layer's."""
        point = f"{layer.name} {structure.family} {structure.shapes}"
        order = form.order
        cost = sum(
            structure.flops_in(order or structure.cheapest_order(g.stride), g) for g in layer.calls
        )
        ratio = 0.05 + (0.8 + 0.8 * lottery(point)) * cost / layer.flops
        if form.matmul:
            ratio *= 0.7 + 0.5 * lottery(point + "matmul")
        if order is not None:
            ratio *= 0.8 + 0.4 * lottery(f"{point} {order}")
        return self.slowness * ratio

    def network_ratio(self, profile, structures, forms):
        """Time of a network over the dense one's."""
        saved = sum(
            layer.flops * (1.0 - self.ratio(layer, structures[layer.name], forms[layer.name]))
            for layer in profile.searched
            if layer.name in structures
        )
        dense = REST_MS / MS_PER_FLOP + sum(layer.flops for layer in profile.searched)
        return 1.0 + self.overhead * len(structures) - REALIZED * saved / dense

    def of_plan(self, profile, plan):
        return self.network_ratio(profile, plan, {name: plan.form(name) for name in plan})

    def stopwatch(self, model, example, profile, runtime):
        return WorldsStopwatch(self, model, example, profile, runtime)


class WorldsStopwatch(Stopwatch):
    """Asks a world instead of the machine's clock."""

    def __init__(self, world, model, example, profile, runtime):
        super().__init__(model, example, profile, runtime)
        self.world, self.profile, self.example = world, profile, example

    def start(self, _):
        self.world.starts += 1
        layers = {
            layer.name: LayerTime(self.key(layer), MS_PER_FLOP * layer.flops)
            for layer in self.layers
        }
        network_ms = REST_MS + sum(layer.dense_ms for layer in layers.values())
        return Timetable(self.setting(), network_ms, layers)

    def candidate_ratios(self, layer, sides, _):
        self.world.races += 1
        ratios = [self.world.ratio(layer, structure, form) for structure, form in sides]
        return [(ratio, ratio, ratio) for ratio in ratios]

    def network_ratio(self, small, _):
        """Look into the network that was built, and at nothing else."""
        self.world.networks += 1
        with torch.no_grad():
            small(self.example)
        ratio = self.world.network_ratio(self.profile, structures_of(small), forms_of(small))
        return ratio, ratio, ratio


@pytest.fixture
def world(small_network, small_input):
    return World(search.profile(small_network, small_input))


@pytest.fixture(scope="module")
def finished(small_network, small_input, tmp_path_factory):
    """A finished search for latency: its world, folder and result; do not write."""
    folder = tmp_path_factory.mktemp("clocked") / "run"
    world = World(search.profile(small_network, small_input))
    return world, folder, run(world, small_network, small_input, run=folder)


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run, to go on with."""
    for file in finished[1].iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def run(world, network, example, run=None, **changes):
    """Search in a world; what `search.run` does, but for the clock."""
    arguments = {"budget": Budget(latency=0.7), **ARGUMENTS, **changes}
    notes = []
    try:
        return search_network(
            request_of(network, example, **arguments),
            Nobody() if run is None else RunFolder(run),
            notes.append,
            world.stopwatch,
            world.now,
        )
    finally:
        for note in notes:
            warnings.warn(note, stacklevel=2)


def n_trials(folder):
    return sum(map(len, trials_in(RunFolder(folder).storage()).values()))


def measured_ratio(result, plan):
    return result.timetable.of(plan).ratio


def layers_ms(result, plan):
    """Layer name -> milliseconds of what the plan takes there, and of the dense layer."""
    rows = zip(result.choices.layers.items(), result.choices.choice(plan), strict=True)
    return {name: (options.ms[row], options.ms[-1]) for (name, options), row in rows}


def test_the_best_plan_holds_the_latency_though_less_is_realized(finished):
    world, _, result = finished
    assert measured_ratio(result, result.best) <= 0.7
    assert world.of_plan(result.profile, result.best) == pytest.approx(
        measured_ratio(result, result.best), rel=1e-12
    )
    assert result.timetable.effect().realized == pytest.approx(REALIZED, abs=0.05)
    saved = result.timetable.of(result.best).saved
    assert 1.0 - REALIZED * saved == pytest.approx(measured_ratio(result, result.best), rel=1e-9)


def test_the_best_plan_does_not_save_more_than_it_must(finished):
    """Another plan, with less error and measured to hold the budget, would have been better."""
    _, _, result = finished
    front = result.pareto_front()
    best = front[[plan == result.best for plan in front["plan"]]]
    assert len(best) == 1
    held = front[1.0 / front["speedup"] <= 0.7]
    assert held["error"].min() == best["error"].iloc[0]


def test_what_networks_save_more_than_their_layers_promise_is_used(
    world, small_network, small_input, monkeypatch
):
    monkeypatch.setattr(sys.modules[__name__], "REALIZED", 1.25)
    result = run(world, small_network, small_input, budget=Budget(latency=0.75), n_network_trials=0)
    assert measured_ratio(result, result.best) <= 0.75
    by_all_that_is_known = result.allocate(Budget(latency=0.75)).loss
    assert error_of(result, result) <= by_all_that_is_known / WORTHWHILE


class Surprising(World):
    """Networks that take two thirds of the dense one's time by their layers take far longer."""

    def network_ratio(self, profile, structures, forms):
        ratio = super().network_ratio(profile, structures, forms)
        return ratio + 0.4 * (0.62 < ratio < 0.72)


@pytest.mark.parametrize("share", [0.6, 0.7, 0.8])
def test_what_one_network_surprises_with_costs_no_other_plan(share, small_network, small_input):
    """Of the plans that the front shows to hold the latency, the program has found the best."""
    world = Surprising(search.profile(small_network, small_input))
    budget = Budget(latency=share)
    result = run(world, small_network, small_input, budget=budget, n_network_trials=0)
    front = result.pareto_front()
    held = front[1.0 / front["speedup"] <= share]["error"]
    assert WORTHWHILE * error_of(result, result) <= held.min()


def test_milliseconds_and_speedup_are_the_same_limit(world, small_network, small_input, finished):
    _, _, result = finished
    dense_ms = result.timetable.network_ms
    for share in (0.65, 0.75, 0.9):
        limits = {"latency": share}, {"latency_ms": share * dense_ms}, {"speedup": 1 / share}
        same = [Budget(**limit) for limit in limits]
        first, *others = [result.plan(budget) for budget in same]
        assert all(plan == first for plan in others)
    first, *others = [run(world, small_network, small_input, budget=budget).best for budget in same]
    assert all(plan == first for plan in others)
    assert world.of_plan(result.profile, first) <= share


def test_every_plan_of_the_front_was_measured(finished):
    world, _, result = finished
    front = result.pareto_front()
    assert np.isfinite(front[["latency_ms", "speedup", "activations"]].to_numpy()).all()
    assert front["predicted_ms"].isna().sum() < len(front) / 4  # those with a layer never timed
    dense_ms = result.timetable.network_ms
    for row in front.itertuples():
        assert row.latency_ms / dense_ms == pytest.approx(
            world.of_plan(result.profile, row.plan), rel=1e-12
        )
        assert row.speedup == pytest.approx(dense_ms / row.latency_ms)
    assert len(front) == len({plan.to_json() for plan in front["plan"]})


def test_all_layers_have_a_latency(finished):
    _, _, result = finished
    frame = result.candidates()
    for name, rows in frame.groupby("layer"):
        dense = result.timetable.layers[name].dense_ms
        assert rows.iloc[0][["latency_ms", "speedup"]].tolist() == [dense, 1.0]
        known = rows.dropna(subset="latency_ms")
        assert len(known) > 1
        np.testing.assert_allclose(known["speedup"] * known["latency_ms"], dense)


BUDGETS = [
    *({"flops": share} for share in (0.4, 0.6, 0.9)),
    *({"latency": share} for share in (0.65, 0.8, 0.95)),
    {"flops": 0.6, "latency": 0.75},
]


@pytest.mark.parametrize("limits", BUDGETS, ids=str)
def test_what_is_slower_than_dense_is_not_chosen(finished, limits):
    _, _, result = finished
    plan = result.plan(Budget(**limits))
    times = layers_ms(result, plan)
    assert len(plan) > 0
    for name in plan:
        chosen, dense = times[name]
        assert not chosen >= dense


def test_where_all_is_slower_only_parameters_can_be_saved(world, small_network, small_input):
    world.slowness = 40.0
    result = run(world, small_network, small_input, budget=Budget(params=0.5))
    assert result.profile.totals(result.best)["params"] <= 0.5 * result.profile.params
    times = layers_ms(result, result.best)
    assert all(times[name][0] > times[name][1] for name in result.best)
    assert measured_ratio(result, result.best) > 1.0
    assert dict(result.plan(Budget())) == {}
    with pytest.raises(InfeasibleBudget, match=r"latency 1\.0000 of the dense network"):
        result.plan(Budget(latency=0.99))
    with pytest.raises(InfeasibleBudget):
        run(world, small_network, small_input, budget=Budget(latency=0.99))


def test_flops_that_only_slower_layers_save_come_with_a_warning(world, small_network, small_input):
    world.slowness = 40.0
    budget = Budget(flops=0.6)
    slower = r"^flops ≤ 60\.0% is out of reach "
    with (
        pytest.warns(UserWarning, match=slower + "for networks that are not slower"),
        pytest.warns(UserWarning, match=slower + "without layers that"),
    ):
        result = run(world, small_network, small_input, budget=budget)
    assert result.profile.totals(result.best)["flops"] <= 0.6 * result.profile.flops
    assert measured_ratio(result, result.best) > 1.0


def test_a_plan_with_fewer_flops_is_not_slower_where_that_can_be(world, small_network, small_input):
    world.overhead = 0.1
    result = run(world, small_network, small_input, budget=Budget(flops=0.8))
    assert result.profile.totals(result.best)["flops"] <= 0.8 * result.profile.flops
    assert world.of_plan(result.profile, result.best) <= 1.0
    assert world.of_plan(result.profile, result.plan(Budget(flops=0.8))) > 1.0


def test_a_plan_with_fewer_flops_that_must_be_slower_comes_with_a_warning(
    world, small_network, small_input
):
    world.overhead = 10.0
    with pytest.warns(UserWarning, match=r"^flops ≤ 80\.0% is out of reach for networks that are"):
        result = run(world, small_network, small_input, budget=Budget(flops=0.8))
    assert result.profile.totals(result.best)["flops"] <= 0.8 * result.profile.flops


def test_a_plan_with_fewer_parameters_may_be_slower(world, small_network, small_input):
    world.overhead = 10.0
    result = run(world, small_network, small_input, budget=Budget(params=0.8))
    assert result.best == result.plan(Budget(params=0.8))


@pytest.mark.parametrize("limit", ["latency", "latency_ms", "speedup"])
def test_an_unreachable_latency_is_refused_before_the_search(
    world, small_network, small_input, tmp_path, limit
):
    searched_ms = MS_PER_FLOP * sum(layer.flops for layer in world.profile.searched)
    network_ms = REST_MS + searched_ms
    share = 0.9 * REST_MS / network_ms
    value = {"latency": share, "latency_ms": share * network_ms, "speedup": 1 / share}[limit]
    least = rf"leave {REST_MS:.3g} ms \({REST_MS / network_ms:.4f} of the dense network\)"
    name = limit.removesuffix("_ms")
    with pytest.raises(InfeasibleBudget, match=rf"{least}.* got {name} .*; raise the budget"):
        run(
            world, small_network, small_input, budget=Budget(**{limit: value}), run=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
    assert (world.races, world.networks) == (0, 0)


def test_a_latency_that_no_candidate_reaches_is_refused(world, small_network, small_input):
    share = 1.02 * REST_MS / (REST_MS + MS_PER_FLOP * sum(x.flops for x in world.profile.searched))
    with pytest.raises(InfeasibleBudget, match=r"got latency ≤ .*took 0\.\d{4} of the dense"):
        run(world, small_network, small_input, budget=Budget(latency=share))


@pytest.mark.parametrize("share", [0.4, 0.45])
def test_a_latency_just_within_reach_is_reached(world, small_network, small_input, finished, share):
    assert 0.35 < finished[2].choices.least("network_ms") < 0.4
    result = run(world, small_network, small_input, budget=Budget(latency=share))
    assert world.of_plan(result.profile, result.best) <= share


@pytest.mark.parametrize("limits", [{"latency": 0.5}, {"latency_ms": 3}, {"speedup": 2.0}])
def test_without_measuring_there_is_no_limit_of_latency(
    world, small_network, small_input, small_run, limits
):
    message = r"^`measure_seconds` must be positive where latency is limited, [^\n]*$"
    with pytest.raises(ValueError, match=message):
        run(world, small_network, small_input, budget=Budget(**limits), measure_seconds=0)
    with pytest.raises(ValueError, match="run it again with `measure_seconds` above 0"):
        search.load(small_run).plan(Budget(**limits))
    assert world.measured == (0, 0, 0)


def test_without_a_clock_no_frame_speaks_of_time(world, small_network, small_input, tmp_path):
    result = run(
        world, small_network, small_input, budget=Budget(flops=0.5), measure_seconds=0, run=tmp_path
    )
    columns = {*result.candidates().columns, *result.pareto_front().columns}
    clocked_columns = {"predicted_ms", "latency_ms", "speedup", "activations"}
    assert not columns & clocked_columns
    assert result.timetable is None
    assert world.measured == (0, 0, 0)
    assert not (tmp_path / "latency.json").exists()


def test_the_same_search_again_measures_nothing(
    world, small_network, small_input, finished, folder
):
    _, _, before = finished
    trials = n_trials(folder)
    again = run(world, small_network, small_input, run=folder)
    assert world.measured == (0, 0, 0)
    assert again.best == before.best
    assert again.pareto_front().equals(before.pareto_front())
    assert n_trials(folder) == trials


def test_another_budget_measures_only_what_is_new(world, small_network, small_input, folder):
    result = run(world, small_network, small_input, run=folder, budget=Budget(latency=0.8))
    assert world.starts == 0
    assert measured_ratio(result, result.best) <= 0.8
    assert world.of_plan(result.profile, result.best) <= 0.8


def test_a_loaded_run_is_the_run(finished):
    _, folder, result = finished
    loaded = search.load(folder)
    assert loaded.best == result.best
    assert loaded.candidates().equals(result.candidates())
    assert loaded.pareto_front().equals(result.pareto_front())
    assert to_json(loaded.timetable) == to_json(result.timetable)
    for budget in (Budget(latency=0.8), Budget(flops=0.5), Budget(speedup=1.2, params=0.6)):
        assert loaded.plan(budget) == result.plan(budget)


def rewrite(path, change):
    document = json.loads(path.read_text())
    document.pop("checksum", None)
    change(document)
    path.write_text(json.dumps(document))


def test_latencies_of_another_setting_are_measured_anew(
    world, small_network, small_input, finished, folder
):
    _, _, before = finished
    path = folder / "latency.json"
    threads = torch.get_num_threads()
    rewrite(path, lambda document: document["setting"].update(threads=threads + 1))
    with pytest.warns(
        UserWarning, match=rf"another setting \(threads {threads + 1} there, {threads} here\)"
    ):
        result = run(world, small_network, small_input, run=folder)
    assert world.starts == 1
    assert world.races > 0
    assert world.networks > 0
    assert json.loads(path.read_text())["setting"]["threads"] == threads
    assert result.best == before.best


def test_latencies_of_another_setting_can_be_kept(
    world, small_network, small_input, finished, folder
):
    _, _, before = finished
    rewrite(folder / "latency.json", lambda document: document["setting"].update(device="abacus"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(world, small_network, small_input, run=folder, keep_latency=True)
    assert world.measured == (0, 0, 0)
    assert result.best == before.best
    assert result.timetable.setting.device == "abacus"


@pytest.mark.parametrize("text", ["", '{"format": "sekron.latency"', "[]", "{}"])
def test_a_damaged_record_of_latencies_is_named(world, small_network, small_input, folder, text):
    (folder / "latency.json").write_text(text)
    message = f"{folder}/latency.json is damaged: "
    with pytest.raises(ValueError, match=message):
        run(world, small_network, small_input, run=folder)
    with pytest.raises(ValueError, match=message):
        search.load(folder)
    assert world.measured == (0, 0, 0)


def formed_plans(result):
    plans = [result.best, *result.pareto_front()["plan"]]
    return [plan for plan in plans if any(plan.form(name) != DEFAULT_FORM for name in plan)]


def test_forms_come_from_the_clock_and_reach_the_network(small_network, small_input, finished):
    _, _, result = finished
    assert formed_plans(result)
    timed = result.timetable
    for plan in formed_plans(result):
        assert Plan.from_json(plan.to_json()) == plan
        entries = json.loads(plan.to_json())["layers"]
        small = plan.apply(small_network)
        for name, structure in plan.items():
            known = timed.point(name, (structure.family, structure.shapes))
            form = DEFAULT_FORM if known is None else known.form
            assert plan.form(name) == small.get_submodule(name).form == form
            if form != DEFAULT_FORM:
                order = None if form.order is None else list(form.order)
                assert (entries[name]["order"], entries[name]["matmul"]) == (order, form.matmul)
        torch.testing.assert_close(
            small(small_input), Plan(dict(plan)).apply(small_network)(small_input)
        )


def test_the_form_is_the_fastest_that_was_tried(finished):
    world, _, result = finished
    of_key = {result.timetable.layers[x.name].key: x for x in result.profile.searched}
    tried = 0
    for key, points in result.timetable.timed.items():
        layer = of_key[key]
        for point, known in points.items():
            first = next(iter(known.ratios))
            structure = Structure(*point, first)
            times = {
                f: world.ratio(layer, structure, f)
                for f in forms_of_structure(layer, structure, EAGER)
            }
            assert times[known.form] == min(times.values()) == known.ratios[first]
            tried += len(times) > 1
    assert tried > 0


def test_flops_are_fvcores_in_every_form(small_network, small_input, finished):
    _, _, result = finished
    front = result.pareto_front()
    for plan, counted in zip(front["plan"], front["flops"], strict=True):
        small = plan.apply(small_network)
        assert (
            count_flops(small, (small_input[:1],))[0]
            == result.profile.totals(plan)["flops"]
            == counted
        )


def test_the_plan_in_the_folder_is_the_best(finished):
    _, folder, result = finished
    assert Plan.load(folder / "plan.json") == result.best


def test_the_search_leaves_the_network_alone(world, small_network, small_input):
    network = copy.deepcopy(small_network).train()
    before = copy.deepcopy(network.state_dict())
    run(world, network, small_input)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_equal_layers_share_their_measurements(small_input):
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        *(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3)),
    ).eval()
    world, raced = World(search.profile(network, small_input)), []

    def ratio(layer, structure, form):
        raced.append((str(structure), form))
        return 0.5

    world.ratio = ratio
    world.network_ratio = lambda *_: 0.5
    result = run(world, network, small_input, budget=Budget(flops=0.9))
    assert set(result.timetable.layers) == {"1", "2", "3"}
    assert len({layer.key for layer in result.timetable.layers.values()}) == 1
    assert len(raced) == len(set(raced))


def test_the_setting_tells_layouts_and_batches_apart(small_network, small_input):
    measured = search.profile(small_network, small_input)

    def setting(x, network=small_network):
        return Stopwatch(network, x, measured).setting()

    here = setting(small_input)
    assert here.difference(setting(small_input.clone())) == ""
    last = small_input.to(memory_format=torch.channels_last)
    assert here.difference(setting(last)) == "layout contiguous there, channels_last here"
    sliced = torch.zeros(*small_input.shape[:-1], 20)[..., : small_input.shape[-1]]
    assert f"{sliced.stride()} here" in here.difference(setting(sliced))
    assert here.difference(setting(small_input[:1])).startswith("input_shapes ((2, 3, 14, 11),)")
    double = copy.deepcopy(small_network).double()
    assert here.difference(setting(small_input.double(), double)).startswith("dtype torch.float32")


def test_a_search_within_autocast_takes_no_times_of_one_without(
    world, small_network, small_input, folder, finished
):
    plain, half = "torch.float32", "torch.float32 in autocast to torch.bfloat16"
    arguments = world, small_network, small_input, folder
    assert finished[2].timetable.setting.dtype == plain
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(UserWarning, match=rf"setting \(dtype {plain} there, {half} here\)"):
            found = run(*arguments)
        assert found.timetable.setting.dtype == half
        assert world.starts == 1
        run(*arguments)
        assert world.starts == 1
        with torch.autocast("cpu", enabled=False):
            inner = Stopwatch(small_network, small_input, world.profile).setting()
        assert inner.dtype == plain
    with pytest.warns(UserWarning, match=rf"setting \(dtype {half} there, {plain} here\)"):
        run(*arguments)
    assert world.starts == 2


def test_inputs_are_made_again_as_the_layers_saw_them(small_network, small_input):
    last = small_input.to(memory_format=torch.channels_last)
    measured = search.profile(small_network, last)
    seen = {}
    handles = [
        small_network.get_submodule(layer.name).register_forward_pre_hook(
            lambda _, inputs, name=layer.name: seen.setdefault(name, inputs[0])
        )
        for layer in measured.searched
    ]
    with torch.no_grad():
        small_network(last)
    for handle in handles:
        handle.remove()
    calls = Stopwatch(small_network, last, measured)._calls
    assert set(calls) == set(seen)
    for name, x in seen.items():
        (call,) = calls[name]
        made = call.make()
        assert (made.shape, made.stride(), made.dtype) == (x.shape, x.stride(), x.dtype)


def test_forms_tried_compute_the_same(small_network, small_input, finished):
    """Whatever the race is about, its sides are one layer."""
    _, _, result = finished
    for layer in result.profile.searched:
        table = result.tables[layer.name]
        for row in range(0, len(table), max(len(table) // 5, 1)):
            structure = table.structure(row)
            forms = forms_of_structure(layer, structure, EAGER)
            assert Form(None, False) in forms
            assert len(set(forms)) == len(forms)
            outputs = [
                Plan({layer.name: structure}, {layer.name: form}).apply(small_network)(small_input)
                for form in forms
            ]
            for output in outputs[1:]:
                torch.testing.assert_close(output, outputs[0], rtol=1e-4, atol=1e-5)


def test_a_search_with_more_time_goes_on_where_the_last_one_had_none(
    world, small_network, small_input, tmp_path
):
    class Slow(World):
        """A second passes with everything that is measured."""

        def __init__(self, profile):
            super().__init__(profile)
            self.now = lambda: float(sum(self.measured))

    slow = Slow(world.profile)
    hurried = {"budget": Budget(latency=0.9), "run": tmp_path, "measure_seconds": 6.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it has too little time
        first = run(slow, small_network, small_input, **hurried)
        races = slow.races
        run(slow, small_network, small_input, **hurried)
        assert slow.races == races
    again = run(slow, small_network, small_input, **hurried | {"measure_seconds": AMPLE})
    assert slow.races > races
    assert error_of(again, again) < error_of(again, first)
    races = slow.races
    assert run(slow, small_network, small_input, **hurried).best == again.best
    assert slow.races == races


def error_of(result, other):
    """Error of another result's best plan."""
    return result.choices.member(result.choices.choice(other.best)).error


def test_that_a_plan_is_slower_is_told_whenever_it_is_found(
    world, small_network, small_input, tmp_path
):
    world.slowness = 20.0
    for told in ("fewer FLOPs|slower", "takes .* of the dense network's time"):
        with pytest.warns(UserWarning, match=told):
            run(world, small_network, small_input, tmp_path, budget=Budget(flops=0.8))


@pytest.mark.parametrize("limit", [{"latency_ms": 20.0}, {"latency": 0.9}, {"speedup": 1.25}])
def test_a_tighter_limit_is_one_in_milliseconds(limit):
    budget = Budget(params=0.1, **limit)
    tighter = tightened(budget, 0.3, 10.0)
    assert tighter.limit_ms(10.0) == pytest.approx(budget.limit_ms(10.0) - 3.0)
    assert (tighter.params, tightened(budget, 0.0, 10.0)) == (0.1, budget)


def test_a_network_that_fails_once_is_tried_again(world, small_network, small_input, monkeypatch):
    """Memory may be short for a moment; each of its layers runs, and so does it the next time."""
    honest, failures = world.network_ratio, iter([CannotRun("no space left on the device")])

    def network_ratio(*arguments):
        for failure in failures:
            raise failure
        return honest(*arguments)

    monkeypatch.setattr(world, "network_ratio", network_ratio)
    result = run(world, small_network, small_input)
    assert measured_ratio(result, result.best) <= 0.7
    assert all(time.runs for time in result.timetable.networks.values())


def test_the_best_plan_is_on_the_front_in_whatever_forms_it_runs(finished, monkeypatch):
    """Of the time that its layers save in other forms nothing is known, which beats nothing."""
    _, _, result = finished
    swept = list(sweep._swept(result.choices, None))  # the same whichever plan is the best
    monkeypatch.setattr(sweep, "_swept", lambda *_: swept)
    members = front_members(result.choices, result.best, None)
    for member in members[1:-1]:
        turned = {name: member.plan.form(name) for name in member.plan}
        forms = {name: Form(form.order, not form.matmul) for name, form in turned.items()}
        plan = Plan(dict(member.plan), forms, result.metrics)
        assert any(m.plan == plan for m in front_members(result.choices, plan, None))


def test_the_best_plan_is_on_the_front_though_another_seems_to_beat_it(finished):
    """By its layers' times; on the clock the other one may not have held the budget."""
    choices = finished[2].choices
    front = front_members(choices, finished[2].best, None)
    middle = tuple(len(options.flops) // 2 for options in choices.layers.values())
    beaten = choices.member(middle)
    assert beaten.plan not in [member.plan for member in front]
    assert beaten.plan in [member.plan for member in front_members(choices, beaten.plan, None)]
