"""Searches for a score: what wins, what it costs, what is kept, what is refused."""

import copy
import json
import math
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import baselines
import search
import sekron
from search import Budget, InfeasibleBudget
from search.clock.timetable_record import to_json
from search.folder.run_folder import SCORES as FILE
from search.folder.run_folder import RunFolder
from search.folder.scores import Scores
from search.pipeline.plans import plan_by_score
from search.whole_network import by_score as scored
from search.whole_network.judge import Judge
from search.whole_network.plan_clock import NEVER
from sekron import Plan, Structure
from sekron.layers.operations import Form
from sekron.network.surgery import structures_of
from tests.test_search_whole_network_within_latency import AMPLE, World
from tests.test_search_whole_network_within_latency import run as run_in
from tests.trials import trials_in

N_TRIALS = 5
ARGUMENTS = {
    "n_trials": 1,
    "max_sequence_length": 2,
    "measure_seconds": 0,
    "n_network_trials": N_TRIALS,
    "progress": False,
}


class Likeness:
    """Scores a network by how near its outputs are to those of the dense one: 1 is equal."""

    def __init__(self, dense, images):
        self.images, self.seen = images, []
        with torch.no_grad():
            self.wanted = copy.deepcopy(dense).eval()(images)
        self.spread = (self.wanted - self.wanted.mean(0)).norm()

    def __call__(self, network):
        assert not any(module.training for module in network.modules())
        with torch.no_grad():
            lost = (network(self.images) - self.wanted).norm() / self.spread
        self.seen.append(1.0 / (1.0 + float(lost)))
        return self.seen[-1]


@pytest.fixture(scope="module", autouse=True)
def far():
    """Trials that differ by much, since networks of four layers have few plans."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored, "REACH", 6.0)
        yield


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(4)
    return torch.randn(16, 3, 14, 11)


@pytest.fixture(scope="module")
def network(small_network, images):
    """A network whose batch norm knows the images, as if it had been trained on them."""
    model = copy.deepcopy(small_network)
    sekron.recalibrate(model, images.split(6))
    return model


@pytest.fixture
def score(network, images):
    return Likeness(network, images)


def run(model, example, images, score, world=None, **changes):
    shown = {"calibration": [(x, None) for x in images.split(6)], "score": score}
    arguments = {**ARGUMENTS, **shown, **changes}
    if world is None:
        return search.run(model, example, **arguments)
    return run_in(world, model, example, **arguments)


def by_score(result):
    """All scored plans, the best first, with what they use."""
    entries = [
        (value, result.profile.totals(plan), plan)
        for plan, value in result.scores.networks.values()
    ]
    return sorted(entries, key=lambda entry: -entry[0])


@pytest.fixture(scope="module")
def finished(network, small_input, images, tmp_path_factory):
    """A finished search for half of the FLOPs: its folder, result and score; do not write."""
    folder = tmp_path_factory.mktemp("scored") / "run"
    own = Likeness(network, images)
    found = run(network, small_input, images, own, budget=Budget(flops=0.5), run=folder)
    return folder, found, own


def test_the_best_score_within_the_budget_wins(finished):
    _, result, _ = finished
    entries = by_score(result)
    assert len(entries) > 1
    limit = result.profile.flops // 2
    assert all(used["flops"] <= limit for _, used, _ in entries)
    assert result.best.to_json() == entries[0][2].to_json()
    assert result.scores.of(result.plan(Budget(flops=0.5))) <= entries[0][0]


def test_a_plan_that_scores_better_than_the_exact_one_wins(network, small_input, images, finished):
    """Whatever the candidates are: the score likes every network but that of the exact plan."""
    exact = finished[1].plan(Budget(flops=0.5))

    def score(model):
        return float(structures_of(model) != dict(exact))

    result = run(network, small_input, images, score, budget=Budget(flops=0.5))
    assert result.plan(Budget(flops=0.5)) == exact
    assert result.scores.of(exact) < result.scores.of(result.best)


def test_networks_are_scored_with_batch_norm_re_estimated(network, images, finished):
    _, result, own = finished
    fresh = Likeness(network, images)
    for value, _, plan in by_score(result)[:3]:
        small = plan.apply(network).eval()
        as_decomposed = fresh(small)
        sekron.recalibrate(small, images.split(6))
        assert fresh(small) == value != as_decomposed
    assert own.seen[0] == result.scores.dense == 1.0
    assert len(own.seen) == 1 + len(result.scores.networks)


def test_the_front_has_every_score_that_no_other_plan_beats(finished):
    _, result, _ = finished
    front = result.pareto_front()
    assert front["score"].max() == 1.0  # the dense network's
    on_front = {row.plan.to_json(): row.score for row in front.itertuples()}
    assert on_front[result.best.to_json()] == result.scores.of(result.best)
    assert front["score"].isna().any()
    assert (front["score"].isna() == [math.isnan(result.scores.of(p)) for p in front["plan"]]).all()


def test_a_loaded_search_has_the_best_plan_and_the_scores(finished):
    folder, result, _ = finished
    loaded = search.load(folder)
    assert loaded.best.to_json() == result.best.to_json()
    assert loaded.scores == result.scores
    assert loaded.pareto_front()["score"].equals(result.pareto_front()["score"])
    assert json.loads((folder / "plan.json").read_text()) == json.loads(result.best.to_json())


@pytest.mark.parametrize("limits", [{}, {"params": 0.6}], ids=["alone", "with-parameters"])
def test_the_fewest_flops_with_the_least_score_win(network, small_input, images, score, limits):
    budget = Budget(min_score=0.45, **limits)
    result = run(network, small_input, images, score, budget=budget)
    assert result.scores.of(result.best) >= 0.45
    used = result.profile.totals(result.best)
    assert used["flops"] < 0.9 * result.profile.flops
    for value, other, _ in by_score(result):
        assert value < 0.45 or other["flops"] >= used["flops"]
        assert other["params"] <= limits.get("params", 1.0) * result.profile.params


def test_trials_go_below_what_the_bisection_found(network, small_input, images, score):
    arguments = network, small_input, images, score
    budget = Budget(min_score=0.55)
    none = run(*arguments, budget=budget, n_network_trials=0)
    some = run(*arguments, budget=budget, n_network_trials=12)
    flops = [r.profile.totals(r.best)["flops"] for r in (none, some)]
    assert flops[1] < flops[0]
    assert len(none.scores.networks) <= scored.BISECTIONS


@pytest.mark.parametrize("budget", [Budget(flops=0.5), Budget(min_score=0.6)], ids=str)
def test_an_interrupted_search_goes_on_as_if_it_had_not_been(
    network, small_input, images, score, budget, tmp_path
):
    whole = run(network, small_input, images, score, budget=budget, run=tmp_path / "whole")
    n_calls, broken = len(score.seen), Likeness(network, images)

    def breaking(network):
        if len(broken.seen) in (2, 4):
            broken.seen.append(None)
            raise KeyboardInterrupt
        return broken(network)

    arguments = {"budget": budget, "run": tmp_path / "broken"}
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(network, small_input, images, breaking, **arguments)
    with pytest.raises(ValueError, match="must hold a finished search, but its plan was not score"):
        search.load(tmp_path / "broken")
    resumed = run(network, small_input, images, breaking, **arguments)
    assert resumed.scores == whole.scores
    assert resumed.best.to_json() == whole.best.to_json()
    n_interrupted = sum(value is None for value in broken.seen)
    assert len(broken.seen) - n_interrupted == n_calls + 2  # the dense network, each time
    again = run(network, small_input, images, breaking, **arguments)
    assert again.scores == whole.scores
    assert len(broken.seen) - n_interrupted == n_calls + 3


def test_more_trials_go_on(network, small_input, images, finished, tmp_path):
    folder, result, _ = finished
    copied = shutil.copytree(folder, tmp_path / "copy")
    own = Likeness(network, images)
    arguments = {"budget": Budget(flops=0.5), "n_network_trials": N_TRIALS + 3}
    more = run(network, small_input, images, own, run=copied, **arguments)
    assert set(result.scores.networks) < set(more.scores.networks)
    assert len(own.seen) <= 1 + 3
    assert more.scores.of(more.best) >= result.scores.of(result.best)


def test_another_score_starts_anew(network, small_input, images, finished, tmp_path):
    copied = shutil.copytree(finished[0], tmp_path / "copy")
    own = Likeness(network, images)
    arguments = {"budget": Budget(flops=0.5), "run": copied}
    with pytest.warns(UserWarning, match=r"another score or other data .* had 1\.0, now 2\.0\)"):
        result = run(network, small_input, images, lambda n: 1.0 + own(n), **arguments)
    assert result.scores.dense == 2.0
    assert len(own.seen) == 1 + len(result.scores.networks)


@pytest.mark.parametrize(
    ("dense", "kept"), [(31.2345, 1), (31.2345 * (1 + 1e-9), 1), (31.2346, 0)], ids=str
)
def test_scores_are_kept_where_the_dense_network_differs_in_its_last_digits(dense, kept):
    """As it does with other threads, or on another machine."""
    told, plan = [], Plan({"0": Structure("sekron", ((6, 1), (1, 4)), (2,))})
    recorded = Scores(31.2345).with_network(plan, 30.0)
    judge = Judge(
        nn.Sequential(nn.Linear(4, 6)), lambda _: dense, None, recorded, lambda _: None, told.append
    )
    assert len(judge.scores.networks) == kept
    assert judge.scores.dense == (recorded.dense if kept else dense)
    assert ["(the dense network had 31.2345, now 31.2346)" in text for text in told] == [True] * (
        1 - kept
    )


def test_a_later_search_without_a_score_has_none(network, small_input, images, finished, tmp_path):
    copied = shutil.copytree(finished[0], tmp_path / "copy")
    arguments = {"run": copied, "budget": Budget(flops=0.4)}
    result = run(network, small_input, images, None, **arguments)
    for one in (result, search.load(copied)):
        assert one.scores is None
        assert "score" not in one.pareto_front()
        assert one.best.to_json() == result.plan(Budget(flops=0.4)).to_json()


def test_without_a_calibration_networks_are_scored_as_they_are(network, small_input, images, score):
    arguments = {"budget": Budget(flops=0.5), "calibration": None}
    with pytest.warns(UserWarning, match="without re-estimated batch norm, since there is no"):
        result = run(network, small_input, images, score, **arguments)
    small = result.best.apply(network)
    assert Likeness(network, images)(small) == result.scores.of(result.best)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 9, 3), nn.Flatten(), nn.LazyLinear(4))
    plain(small_input)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own = Likeness(plain, images)
        run(plain, small_input, images, own, budget=Budget(flops=0.8), calibration=None)


def test_a_network_whose_score_is_no_number_is_the_worst(network, small_input, images):
    calls = []

    def score(_):
        calls.append(None)
        return 1.0 if len(calls) == 1 else 0.5 if len(calls) == 3 else math.nan

    result = run(network, small_input, images, score, budget=Budget(flops=0.5))
    assert result.scores.of(result.best) == 0.5
    assert sorted(value for _, value in result.scores.networks.values())[-2:] == [-math.inf, 0.5]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"score": None}, ValueError, "a least score needs `score`, got score ≥ 1.5 without one"),
        ({}, InfeasibleBudget, "`min_score` must be at most the dense network's 1.0, got 1.5"),
        ({"score": lambda _: math.nan}, ValueError, "must be finite, got nan for the dense"),
        (
            {"budget": Budget(min_score=0.99, flops=0.4)},
            InfeasibleBudget,
            r"reachable, got flops ≤ 40.0%, score ≥ 0.99; the best of 6 plans .* has -?0\.",
        ),
    ],
    ids=["no-score", "above-dense", "nan", "out-of-reach"],
)
def test_what_cannot_be_scored_is_refused(
    network, small_input, images, score, changes, error, message, tmp_path
):
    arguments = {
        "budget": Budget(min_score=1.5),
        "score": score,
        "run": tmp_path / "run",
        **changes,
    }
    with pytest.raises(error, match=message):
        run(network, small_input, images, **arguments)


def test_a_least_score_is_for_a_search_alone(network, small_input, finished):
    budget = Budget(flops=0.5, min_score=0.6)
    with pytest.raises(ValueError, match="a least score needs networks to be scored, got flops"):
        finished[1].plan(budget)
    with pytest.raises(ValueError, match="a comparison needs budgets of flops or params alone"):
        baselines.compare(network, small_input, budget)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged: "),
        (
            '{"format": "sekron.scores", "version": 9}',
            "must have version 2, got 9; use",
        ),
        ('{"format": "sekron.scores", "version": 2}', "is damaged: .* missing .* `dense`"),
        (
            '{"format": "sekron.scores", "version": 2, "dense": 1, "networks": {"a": 1}, '
            '"winners": {}}',
            r"is damaged: Expected `array`, got `object` - at `\$\.networks`",
        ),
    ],
)
def test_a_damaged_record_is_refused(finished, tmp_path, text, message):
    copied = shutil.copytree(finished[0], tmp_path / "copy")
    (copied / FILE).write_text(text)
    with pytest.raises(ValueError, match=f"{FILE} {message}"):
        search.load(copied)


@pytest.fixture
def world(network, small_input):
    return World(search.profile(network, small_input))


@pytest.mark.parametrize(
    "budget",
    [Budget(latency=0.85), Budget(min_score=0.5, latency=0.9), Budget(flops=0.5)],
    ids=str,
)
def test_the_winner_holds_the_clock_too(
    world, network, small_input, images, score, budget, tmp_path
):
    arguments = {"budget": budget, "run": tmp_path / "run", "measure_seconds": AMPLE}
    result = run(network, small_input, images, score, world, **arguments)
    limit = budget.latency or 1.0
    assert world.of_plan(world.profile, result.best) <= limit
    value = result.scores.of(result.best)
    rivals = [
        plan
        for other, used, plan in by_score(result)
        if world.of_plan(world.profile, plan) <= limit
        and (
            other > value
            if budget.min_score is None
            else other >= 0.5 and used["flops"] < result.profile.totals(result.best)["flops"]
        )
    ]
    assert rivals == []
    assert result.timetable.of(result.best) is not None
    loaded = search.load(tmp_path / "run")
    assert loaded.best.to_json() == result.best.to_json()
    assert to_json(loaded.timetable) == to_json(result.timetable)


def test_a_timed_search_of_a_folder_that_was_scored_without_a_clock_has_trials_of_its_own(
    world, network, small_input, images, score, finished, tmp_path
):
    copied = shutil.copytree(finished[0], tmp_path / "copy")
    arguments = {"budget": Budget(flops=0.5), "measure_seconds": AMPLE, "run": copied}
    run(network, small_input, images, score, world, **arguments)
    studies = trials_in(RunFolder(copied).storage())
    own = [len(trials) for name, trials in studies.items() if "/scores/" in name]
    assert own == [N_TRIALS, N_TRIALS]


# With FLOPs limited too, the search says the same of layers, and of its plan before any scoring.
# Both are what the search says of this made-up clock; the test is of what it does then.
@pytest.mark.filterwarnings("ignore:.* is out of reach without layers that were measured slower")
@pytest.mark.filterwarnings("ignore:flops ≤ 80.0% is out of reach for networks that are not slower")
@pytest.mark.parametrize(
    ("least", "limits"), [(0.45, {}), (0.35, {"flops": 0.8})], ids=["alone", "with-flops"]
)
def test_where_all_are_slower_the_fewest_flops_win_with_a_warning(
    world, network, small_input, images, score, least, limits
):
    world.slowness = 40.0
    arguments = {"budget": Budget(min_score=least, **limits), "measure_seconds": AMPLE}
    with pytest.warns(UserWarning, match=rf"score ≥ {least} is out of reach for networks that are"):
        result = run(network, small_input, images, score, world, **arguments)
    used = result.profile.totals(result.best)["flops"]
    assert result.best
    assert result.scores.of(result.best) >= least
    for value, other, _ in by_score(result):
        assert value < least or other["flops"] >= used


def test_the_dense_network_may_be_the_first_to_be_scored(small_run, monkeypatch):
    """It is the plan on the clock where nothing else is faster; a plan without layers is one."""
    result, first = search.load(small_run), []

    def best_by_score(choices, budget, start, *_):
        first.append(start)
        return start

    monkeypatch.setattr("search.pipeline.plans.best_by_score", best_by_score)
    request = SimpleNamespace(budget=Budget(flops=0.5))
    for start in (Plan({}), None):
        plan_by_score(request, result.choices, start, None, None, None, print, print)
    assert first == [Plan({}), result.choices.best(Budget(flops=0.5))]


def test_what_does_not_run_never_wins(small_run):
    choices = search.load(small_run).choices
    plans = [choices.best(Budget(flops=share)) for share in (0.7, 0.5)]
    for excess, slower in ((NEVER, None), (0.5, plans[1])):
        contest = scored._Contest(
            choices, Budget(min_score=0.1), lambda _, **__: 1.0, lambda _, e=excess: e
        )
        for plan in plans:
            contest.enter(plan)
        assert contest.best is None
        assert (contest.slower and contest.slower.plan) == slower


def test_a_score_is_that_of_a_plan_in_any_form(finished):
    _, result, _ = finished
    turned = sekron.Plan(result.best, dict.fromkeys(result.best, Form(None, True)), result.metrics)
    assert turned.digest != result.best.digest
    assert result.scores.of(turned) == result.scores.of(result.best)


def test_with_a_least_score_the_plan_of_the_clock_competes_too(finished, monkeypatch):
    """The others score enough as well, but were measured to miss, and no trial finds another."""
    choices = finished[1].choices
    start = choices.best(Budget(flops=0.4))

    def admits(member):
        return 0.0 if member.plan == start else 0.5

    monkeypatch.setattr(scored, "SharedJudge", lambda *_: lambda *_, **__: 1.0)
    for unneeded in ("study_of", "_run_trials"):
        monkeypatch.setattr(scored, unneeded, lambda *_: None)
    judge = SimpleNamespace(scores=SimpleNamespace(dense=1.0), crown=lambda *_: None)
    budget, trials = Budget(flops=0.5, min_score=0.1), SimpleNamespace(claims=None)
    assert (
        scored.best_by_score(choices, budget, start, judge, admits, trials, print, print) == start
    )


def test_trials_that_no_plan_fits_are_told(finished, monkeypatch):
    """The plan of the clock holds what, by the layers' times, no plan does."""
    choices, told = finished[1].choices, []
    start = choices.best(Budget(flops=0.5))
    judge = SimpleNamespace(scores=SimpleNamespace(dense=1.0), crown=lambda *_: None)
    trials = SimpleNamespace(claims=None, number=3, seed=0)
    for name, instead in (
        ("SharedJudge", lambda *_, **__: 1.0),
        ("SharedTrials", SimpleNamespace(next=lambda: 0, told={}, wait_for_all=lambda: None)),
        ("study_of", None),
        ("_asked", None),
        ("_weighted", choices),
    ):
        monkeypatch.setattr(scored, name, lambda *_, instead=instead: instead)
    arguments = judge, lambda _: 0.0, trials, print, told.append
    assert scored.best_by_score(choices, Budget(flops=0.01), start, *arguments) == start
    assert told == [
        f"by the layers' times no further plan is within {Budget(flops=0.01)}; "
        "0 of 3 trials were run."
    ]
