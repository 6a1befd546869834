"""What a runtime does not take has no time there; the search goes on, and says so once."""

import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import search
from search import Budget
from search.clock.candidate_times import Wanted, forms, untimed
from search.clock.stopwatch import Stopwatch
from search.clock.times import LayerTime, NetworkTime, Setting, TimedPoint
from search.clock.timetable import Timetable
from search.clock.timetable_record import from_json, to_json
from search.front.layer_options import LayerOptions
from search.whole_network.blame import blamed
from sekron import CannotRun, Plan
from sekron.layers.operations import Form
from sekron.network.surgery import forms_of, structures_of
from sekron.structures.structure import Structure
from tests.test_search_runtimes import SPLIT, Salted, fake_race, timed_in
from tests.test_search_whole_network_within_latency import World, rewrite, run, world

__all__ = ["fake_race", "world"]  # fixtures are found by their names


class Picky(World):
    """A world in which a runtime refuses some structures: in a layer alone, or in a network."""

    def __init__(self, profile, in_layer=lambda *_: False, in_network=lambda *_: False):
        super().__init__(profile)
        self.in_layer, self.in_network = in_layer, in_network
        self.made = []

    def stopwatch(self, model, example, profile, runtime):
        found = super().stopwatch(model, example, profile, runtime)
        timed, raced = found.candidate_ratios, found.network_ratio

        def candidate_ratios(layer, sides, seconds):
            times = timed(layer, sides, seconds)
            for place, side in enumerate(sides):
                if self.in_layer(layer, *side):
                    found.refused[f"{side[0]} in layer {layer.name!r}"] = "it is odd."
                    times[place] = 3 * (math.inf,)
            return times

        def network(small):
            self.made.append(structures_of(small))
            chosen, forms = structures_of(small), forms_of(small)
            if any(self.in_network(name, chosen[name], forms[name]) for name in chosen):
                raise CannotRun("it must take the network, but does not: it is odd.")

        def network_ratio(small, seconds):
            network(small)
            return raced(small, seconds)

        found.candidate_ratios, found.network_ratio = candidate_ratios, network_ratio
        found.sides.network = network
        return found


def is_chosen(structure, kind):
    return structure.family == "chain" and structure.length == 2 and kind(structure)


@pytest.fixture
def picky(small_network, small_input, monkeypatch):
    """Make the runtime refuse what a function of module and arguments says."""
    from sekron.export.runtimes import make_ready  # noqa: PLC0415  replaced below

    def refuse(is_refused):
        def made(name, module, arguments):
            if is_refused(module):
                raise CannotRun(f"{name} must take the network, but does not: it is odd.")
            return make_ready(name, module, arguments)

        monkeypatch.setattr("search.clock.sides.make_ready", made)
        measured = search.profile(small_network, small_input)
        return Stopwatch(small_network, small_input, measured, "onnxruntime")

    return refuse


def has_matmul(module):
    return any(form.matmul for form in forms_of(module).values())


def test_one_form_that_is_refused_leaves_the_others(picky, fake_race):
    fake_race(lambda n: np.arange(n, 0.0, -1.0))  # the last of what runs is the fastest
    stopwatch = picky(has_matmul)
    layer = stopwatch.layers[0]
    sides = [(SPLIT, Form()), (SPLIT, Form(None, True)), (SPLIT, Form((1, 0)))]
    ratios = [ratio for _, ratio, _ in stopwatch.candidate_ratios(layer, sides, 1.0)]
    # Four sides run: the dense layer 4, these 3 and 2, and the call of nothing 1.
    assert ratios == pytest.approx([2 / 3, math.inf, 1 / 3])
    assert list(stopwatch.refused) == [f"{SPLIT} in layer '3'"]
    assert "it is odd" in stopwatch.refused[f"{SPLIT} in layer '3'"]
    pointwise = Structure.parse("sekron:3x2x1x1,4x4x3x3@6")
    assert forms(layer, pointwise, "torch")[-1].matmul  # which would be the fastest
    times = Timetable(stopwatch.setting(), 9.0, {"3": LayerTime("key", 1.0)})
    timed = Wanted(layer, [pointwise]).timed(stopwatch, times, lambda: 1.0)
    assert not timed.point("3", (pointwise.family, pointwise.shapes)).form.matmul


def test_a_structure_that_runs_in_no_form_is_tried_once(picky, fake_race):
    races = fake_race(lambda n: [1.0] * n)
    stopwatch = picky(lambda module: bool(structures_of(module)))
    layer = stopwatch.layers[0]
    ranks = [Structure(SPLIT.family, SPLIT.shapes, (r,)) for r in (2, 4, 6)]
    times = Timetable(stopwatch.setting(), 9.0, {"3": LayerTime("key", 1.0)})
    timed = Wanted(layer, ranks).timed(stopwatch, times, lambda: 1.0)
    point = timed.point("3", (SPLIT.family, SPLIT.shapes))
    assert point.ratios == {(4,): math.inf}
    assert not point.runs
    assert len(races) == 1
    assert untimed(stopwatch, timed, Plan({"3": ranks[1]})) == []


def test_a_dense_layer_that_is_refused_is_named(picky, fake_race):
    fake_race(lambda n: [1.0] * n)
    stopwatch = picky(lambda module: isinstance(getattr(module, "layer", None), nn.Linear))
    with pytest.raises(CannotRun, match=r"it is odd\. That is the dense layer '11' alone; name it"):
        stopwatch.start(1.0)


def table_with(times, layer, table):
    key = "key"
    setting = Setting("cpu", 1, "2", "float32", "contiguous", ((1, 3),))
    made = Timetable(setting, 10.0, {layer.name: LayerTime(key, 1.0)})
    for point, ratios in times.items():
        made = made.with_point(key, point, TimedPoint(Form(), ratios))
    return LayerOptions.of(layer, table, made)


def test_what_does_not_run_is_in_no_plan(small_run):
    result = search.load(small_run)
    layer = result.profile.searched[0]
    table = result.tables[layer.name]
    point = next(i for i in range(len(table.points)) if (table.point == i).sum() > 2)
    rows = np.flatnonzero(table.point == point)
    refused, timed = (table.ranks[row] for row in rows[:2])
    options = table_with({table.points[point]: {refused: math.inf, timed: 0.5}}, layer, table)
    assert options.runs[rows].tolist() == [False] + [True] * (len(rows) - 1)
    assert np.isnan(options.ms[rows[0]])
    assert (options.ms[rows[1:]] >= 0.5).all()
    none = table_with({table.points[point]: {refused: math.inf}}, layer, table)
    assert not none.runs[rows].any()
    for made, gone in ((options, rows[:1]), (none, rows)):
        for budget in (Budget(flops=0.5), Budget(params=0.5), Budget(latency=0.5)):
            assert not set(gone) & set(made.allowed(budget, slower=True))
        assert np.isin(np.setdiff1d(rows, gone), made.allowed(Budget(params=0.5))).all()


def test_what_does_not_run_is_recorded():
    setting = Setting("cpu", 1, "2", "float32", "contiguous", ((1, 3),))
    table = Timetable(setting, 10.0, {"3": LayerTime("key", 1.0)})
    point = SPLIT.family, SPLIT.shapes
    table = table.with_point("key", point, TimedPoint(Form(), {(2,): math.inf, (6,): 0.5}))
    plan = Plan({"3": SPLIT})
    table = table.with_network(plan, NetworkTime(math.inf, 0.1, 1.0, 1))
    text = to_json(table)
    assert json.loads(text)["timed"][0]["ratios"] == [None, 0.5]
    again = from_json(text, "latency.json")
    assert again.point("3", point) == table.point("3", point)
    assert not again.of(plan).runs
    assert again.effect() == Timetable(setting, 10.0, {}).effect()
    assert to_json(again) == text


@pytest.mark.parametrize("budget", [Budget(latency=0.75), Budget(flops=0.6)], ids=str)
def test_a_search_goes_on_without_the_candidates(small_network, small_input, budget, tmp_path):
    profile = search.profile(small_network, small_input)
    honest = run(World(profile), small_network, small_input, budget=budget)
    disliked = {structure.shapes for structure in honest.best.values()}
    picky = Picky(profile, lambda _, structure, __: structure.shapes in disliked)
    with pytest.warns(UserWarning, match=r"^torch does not take \d+ of what was .* odd\.$") as said:
        found = run(picky, small_network, small_input, budget=budget, run=tmp_path)
    assert len(said) == 1
    assert found.best
    assert not {structure.shapes for structure in found.best.values()} & disliked
    assert found.choices.member(found.choices.choice(found.best)).error > 0
    races = picky.races
    # What was refused is known; nothing is said or timed again.
    again = run(picky, small_network, small_input, budget=budget, run=tmp_path)
    assert (again.best, picky.races) == (found.best, races)
    frame = search.load(tmp_path).candidates()
    of_disliked = [Structure.parse(text).shapes in disliked for text in frame["structure"]]
    timed = frame["latency_ms"].notna()
    assert not timed[of_disliked].any()
    assert timed.sum() > 3


@pytest.mark.parametrize("budget", [Budget(latency=0.75), Budget(flops=0.6)], ids=str)
def test_a_search_finds_what_keeps_a_network_from_running(small_network, small_input, budget):
    profile = search.profile(small_network, small_input)
    honest = run(World(profile), small_network, small_input, budget=budget)
    name, structure = next(iter(honest.best.items()))
    picky = Picky(profile, in_network=lambda n, s, _: n == name and s.shapes == structure.shapes)
    with pytest.warns(UserWarning, match=rf"^torch does not .* in layer '{name}': it must take"):
        found = run(picky, small_network, small_input, budget=budget)
    assert found.best
    assert found.best.get(name, SPLIT).shapes != structure.shapes
    point = structure.family, structure.shapes
    assert not found.timetable.point(name, point).runs


def test_what_runs_by_parts_and_not_as_a_whole_ends_with_the_reason(small_network, small_input):
    profile = search.profile(small_network, small_input)
    picky = Picky(profile)
    picky.in_network = lambda *_: len(picky.made[-1]) > 1
    with pytest.raises(CannotRun, match="it is odd"):
        run(picky, small_network, small_input, budget=Budget(latency=0.6))


class PickyAsAWhole(Picky):
    """A world in which a runtime refuses some networks, whose halves it takes."""

    def __init__(self, profile, refused):
        super().__init__(profile, in_network=lambda *_: self.made[-1] in refused)


@pytest.mark.parametrize("budget", [Budget(latency=0.75), Budget(flops=0.6)], ids=str)
def test_a_search_goes_on_without_a_network_that_is_refused_only_as_a_whole(
    small_network, small_input, budget, tmp_path
):
    profile = search.profile(small_network, small_input)
    arguments = {"budget": budget, "n_network_trials": 0}
    refused = []
    for _ in range(2):
        world = PickyAsAWhole(profile, refused)
        told = pytest.warns(UserWarning, match="^torch does not take 1 of .* the network of plan")
        with told if refused else nullcontext():
            found = run(world, small_network, small_input, **arguments)
        assert len(found.best) > 1
        assert dict(found.best) not in refused
        refused.append(dict(found.best))
    world = PickyAsAWhole(profile, refused[:1])
    for told in (pytest.warns(UserWarning, match="^torch does not take"), nullcontext()):
        with told:  # what is known of the network does not end the next search either
            found = run(world, small_network, small_input, run=tmp_path, **arguments)
        assert dict(found.best) == refused[1]
        rewrite(tmp_path / "latency.json", lambda document: document.update(winners={}))
    assert sum(not time.runs for time in found.timetable.networks.values()) == 1


def test_a_plan_that_is_slower_is_not_lost_where_the_others_are_refused(small_network, small_input):
    profile = search.profile(small_network, small_input)
    picky, first = Picky(profile), []
    picky.overhead = 10.0

    def is_another(*_):
        first[:] = first or [picky.made[-1]]
        return picky.made[-1] != first[0] and len(picky.made[-1]) > 1

    picky.in_network = is_another
    budget = Budget(flops=0.5)
    with (
        pytest.warns(UserWarning, match=r"^flops ≤ 50\.0% is out of reach for networks that are"),
        pytest.warns(UserWarning, match=r"^torch does not take"),
    ):
        found = run(picky, small_network, small_input, budget=budget, n_network_trials=0)
    assert dict(found.best) == first[0]


@pytest.mark.parametrize(
    "error", [RuntimeError("no memory\nat all"), KeyboardInterrupt()], ids=repr
)
def test_a_network_of_the_front_that_fails_costs_only_its_time(small_network, small_input, error):
    profile = search.profile(small_network, small_input)
    arguments = {"budget": Budget(flops=0.6), "n_network_trials": 0}
    honest = run(World(profile), small_network, small_input, **arguments)
    plans = [dict(plan) for plan in honest.pareto_front()["plan"]]
    failing = next(plan for plan in plans if plan not in ({}, dict(honest.best)))
    world = World(profile)
    right = world.network_ratio

    def network_ratio(profile, structures, forms):
        if structures == failing:
            raise error
        return right(profile, structures, forms)

    world.network_ratio = network_ratio
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            run(world, small_network, small_input, **arguments)
        return
    with pytest.warns(UserWarning, match=r" 1 of .* the network of .*: RuntimeError: no memory\.$"):
        found = run(world, small_network, small_input, **arguments)
    assert found.best == honest.best
    front = found.pareto_front()
    unknown = front[front["latency_ms"].isna()]
    assert [dict(plan) for plan in unknown["plan"]] == [failing]
    assert len(front) == len(plans)


class Finding(nn.Module):
    """Raises where it finds nothing, as detectors do: with any factors but those of its weights."""

    def __init__(self, body, x):
        super().__init__()
        self.body = body
        with torch.no_grad():
            self.found = body(x)[0]

    def forward(self, x):
        y = self.body(x)
        if not torch.allclose(y[0], self.found):
            raise RuntimeError("stack expects a non-empty TensorList\nof boxes")
        return y


@pytest.mark.parametrize("budget", [Budget(latency=0.75), Budget(flops=0.6)], ids=str)
def test_where_no_network_runs_with_random_factors_the_search_ends_with_the_reason(
    small_network, small_input, budget
):
    network = Finding(small_network, small_input)
    world = World(search.profile(network, small_input))
    with pytest.raises(CannotRun, match=r"RuntimeError: stack expects a non-empty Tens") as raised:
        run(world, network, small_input, budget=budget)
    assert "\n" not in str(raised.value)
    assert world.networks > 1
    if budget.flops is not None:  # what the message advises
        assert "`measure_seconds` to 0" in str(raised.value)
        assert run(world, network, small_input, budget=budget, measure_seconds=0).best


@pytest.mark.parametrize("error", [RuntimeError("no memory\nat all"), CannotRun("it is odd.")])
@pytest.mark.parametrize("lasts", [False, True])
@pytest.mark.parametrize("first", [1, 2])
def test_a_network_that_fails_when_it_is_raced_does_not_end_the_search(
    small_network, small_input, error, lasts, first
):
    profile = search.profile(small_network, small_input)
    arguments = {"budget": Budget(latency=0.75), "n_network_trials": 0}
    honest = run(World(profile), small_network, small_input, **arguments)
    world, races = World(profile), []
    right = world.network_ratio

    def network_ratio(profile, structures, forms):
        races.append(structures)
        n_races = races.count(structures)
        if structures == dict(honest.best) and (n_races == first or (lasts and n_races > first)):
            raise error
        return right(profile, structures, forms)

    world.network_ratio = network_ratio
    told = pytest.warns(UserWarning, match=r"^torch does not take 1 of what .* the network of plan")
    with told if lasts else nullcontext():
        found = run(world, small_network, small_input, **arguments)
    assert races.count(dict(honest.best)) >= 2
    assert (found.best == honest.best) == (not lasts)
    assert found.timetable.of(found.best).is_confirmed


def test_blame_is_found_by_halves():
    structure = Structure.parse("chain:6x1x3x1,1x6x1x3@4")
    plan = Plan({f"{i}": structure for i in range(8)}, {"3": Form((1, 0))})
    asked = []

    def runs(bad):
        def runs(part):
            asked.append(part)
            return not set(part) & bad

        return runs

    assert blamed(plan, runs({"5"})) == ["5"]
    assert len(asked) == 6
    assert blamed(plan, runs({"0", "3", "7"})) == ["0", "3", "7"]
    assert blamed(plan, runs(set())) == []
    assert next(part for part in asked if "3" in part).form("3") == Form((1, 0))


def test_a_plan_that_another_runtime_refuses_has_no_time_there(
    small_network, small_input, tmp_path
):
    profile = search.profile(small_network, small_input)
    first, other = Picky(profile), Salted(profile, "onnxruntime")

    class Worlds:
        now = first.now

        def stopwatch(self, model, example, profile, runtime):
            world = {"torch": first, "onnxruntime": other}[runtime]
            return world.stopwatch(model, example, profile, runtime)

    timed_in("torch", Worlds(), small_network, small_input, tmp_path)
    first.in_network = lambda *_: True
    with pytest.warns(UserWarning, match=r"^the plan has no time in torch: it must take"):
        found = timed_in("onnxruntime", Worlds(), small_network, small_input, tmp_path)
    told = found.runtimes().set_index("runtime")
    assert told.loc["onnxruntime", "speedup"] > 1
    assert np.isnan(told.loc["torch", ["latency_ms", "speedup"]].astype(float)).all()
