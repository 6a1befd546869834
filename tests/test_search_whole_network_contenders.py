"""Plans that another clock, or another form, suggests, where they are better than the own one."""

import pytest

import search
from search import Budget, InfeasibleBudget
from search.clock.times import Effort, NetworkTime
from search.folder.run_folder import RunFolder
from sekron.layers.operations import DEFAULT_FORM
from tests.test_search_runtimes import timed_in
from tests.test_search_whole_network_within_latency import World, run

LATENCY, FLOPS = Budget(latency=0.7), Budget(flops=0.5)
OTHER = "onnxruntime"


class Plainly(World):
    """Layers alone are fastest as matrix products, which their network does not like."""

    def __init__(self, profile, penalty=0.2):
        super().__init__(profile)
        self.penalty = penalty

    def ratio(self, layer, structure, form):
        ratio = super().ratio(layer, structure, DEFAULT_FORM)
        return 0.9 * ratio if form.matmul else ratio

    def network_ratio(self, profile, structures, forms):
        plain = super().network_ratio(profile, structures, dict.fromkeys(forms, DEFAULT_FORM))
        return plain * (1.0 + self.penalty * any(form.matmul for form in forms.values()))


class Misled(World):
    """Layers alone are slow, as one may measure them, and their networks are not."""

    def __init__(self, profile, slowness):
        super().__init__(profile)
        self.alone = slowness

    def network_ratio(self, profile, structures, forms):
        before, self.alone = self.alone, 1.0
        ratio = super().network_ratio(profile, structures, forms)
        self.alone = before
        return ratio

    def ratio(self, layer, structure, form):
        return self.alone * super().ratio(layer, structure, form)


class Two:
    """A world for eager torch and one for another runtime."""

    def __init__(self, eager, other):
        self.of = {"torch": eager, OTHER: other}
        self.now = eager.now

    def stopwatch(self, model, example, profile, runtime):
        return self.of[runtime].stopwatch(model, example, profile, runtime)


@pytest.fixture
def profile(small_network, small_input):
    return search.profile(small_network, small_input, ["3", "6"])


@pytest.mark.parametrize("budget", [LATENCY, FLOPS])
def test_a_network_that_likes_plain_forms_gets_them(budget, profile, small_network, small_input):
    world = Plainly(profile)
    result = run(world, small_network, small_input, budget=budget)
    alone = result.choices.plan(result.choices.choice(result.best))
    assert any(alone.form(name).matmul for name in alone)
    assert all(result.best.form(name) == DEFAULT_FORM for name in result.best)
    assert dict(result.best) == dict(alone)

    row = result.pareto_front().iloc[result.best_row]
    assert row["plan"] == result.best
    assert row["speedup"] == 1.0 / world.of_plan(result.profile, result.best)
    assert row["flops"] == result.profile.totals(result.best)["flops"]


def test_of_equally_fast_forms_the_one_that_layers_like_stays(profile, small_network, small_input):
    world = Plainly(profile, penalty=0.0)
    result = run(world, small_network, small_input, budget=FLOPS)
    assert result.best == result.choices.plan(result.choices.choice(result.best))
    assert any(result.best.form(name).matmul for name in result.best)


def test_what_was_found_is_found_again_without_a_measurement(
    profile, small_network, small_input, tmp_path
):
    world = Plainly(profile)
    first = run(world, small_network, small_input, run=tmp_path)
    before = world.measured
    again = run(world, small_network, small_input, run=tmp_path)
    assert world.measured == before
    assert again.best == first.best == search.load(tmp_path).best


def test_a_plan_of_another_clock_that_holds_the_latency_wins_by_its_error(
    profile, small_network, small_input, tmp_path
):
    worlds = Two(World(profile), Misled(profile, slowness=1.5))
    eager = timed_in("torch", worlds, small_network, small_input, tmp_path)
    other = timed_in(OTHER, worlds, small_network, small_input, tmp_path)
    alone = timed_in(OTHER, worlds, small_network, small_input, tmp_path / "alone")
    errors = [result.choices.as_it_is(result.best).error for result in (eager, other, alone)]
    assert errors[0] == errors[1] < errors[2]
    assert dict(other.best) == dict(eager.best)
    assert other.timetable.of(other.best).ratio <= 0.7
    assert search.load(tmp_path).in_runtime(OTHER).best == other.best


def test_a_plan_of_another_clock_is_one_where_there_is_none(
    profile, small_network, small_input, tmp_path
):
    worlds = Two(World(profile), Misled(profile, slowness=30.0))
    with pytest.raises(InfeasibleBudget, match="no plan held the budget on the clock"):
        timed_in(OTHER, worlds, small_network, small_input, tmp_path / "alone")
    eager = timed_in("torch", worlds, small_network, small_input, tmp_path)
    other = timed_in(OTHER, worlds, small_network, small_input, tmp_path)
    assert dict(other.best) == dict(eager.best)


def test_a_search_that_is_run_again_takes_what_another_clock_has_found_since(
    profile, small_network, small_input, tmp_path
):
    worlds = Two(Misled(profile, slowness=1.5), World(profile))
    first = timed_in("torch", worlds, small_network, small_input, tmp_path)
    other = timed_in(OTHER, worlds, small_network, small_input, tmp_path)
    assert search.load(tmp_path).in_runtime("torch").best == first.best
    # As if it had been short of time, which another one may not be.
    (question,), spent = first.timetable.winners, Effort(7.0, 4)
    hurried = first.timetable.with_winner(question, first.best, spent)
    RunFolder(tmp_path).keep_timetable(hurried)
    races = worlds.of["torch"].races
    again = timed_in(
        "torch", worlds, small_network, small_input, tmp_path, measure_seconds=spent.seconds
    )
    assert worlds.of["torch"].races == races  # of layers
    assert dict(again.best) == dict(other.best) != dict(first.best)
    timetable = RunFolder(tmp_path).timetable(again.metrics, "torch")
    assert timetable.winners == {question: again.best}
    assert timetable.efforts == {question: spent}


def test_under_a_budget_of_flops_layers_stay_refused_that_are_slow_here(
    profile, small_network, small_input, tmp_path
):
    """Another clock's plan has less error, and layers that take longer here than dense ones."""
    worlds = Two(World(profile), Misled(profile, slowness=1.5))
    budget = {"budget": Budget(flops=0.8)}
    eager = timed_in("torch", worlds, small_network, small_input, tmp_path, **budget)
    other = timed_in(OTHER, worlds, small_network, small_input, tmp_path, **budget)
    alone = timed_in(OTHER, worlds, small_network, small_input, tmp_path / "alone", **budget)
    assert dict(other.best) == dict(alone.best) != dict(eager.best)


def test_a_search_with_more_time_remembers_its_winner(
    profile, small_network, small_input, tmp_path
):
    """Found by luck, or by a trial that is not run again."""
    world = World(profile)
    first = run(world, small_network, small_input, run=tmp_path, n_network_trials=0)
    plan = first.plan(Budget(latency=0.8))
    saved = first.timetable.of(first.best).saved
    lucky = NetworkTime(0.65, saved, 1.0, len(plan), 0.65, 0.65, is_confirmed=True)
    question = first.choices.question(LATENCY)
    timetable = first.timetable.with_network(plan, lucky)
    RunFolder(tmp_path).keep_timetable(timetable.with_winner(question, plan, Effort(1.0, 0)))
    again = run(world, small_network, small_input, run=tmp_path, n_network_trials=0)
    assert again.choices.as_it_is(again.best).error <= again.choices.as_it_is(plan).error
