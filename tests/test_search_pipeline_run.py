"""The search from end to end on a small network: exact, repeatable, resumable, refusing."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import search
from search import Budget, InfeasibleBudget
from sekron import Structure, relative_error
from sekron.profiling.count import count_flops
from tests.trials import trials_in

ARGUMENTS = {"n_trials": 6, "max_sequence_length": 3, "measure_seconds": 0, "progress": False}


def run(network, example, **changes):
    arguments = {"budget": Budget(flops=0.5), **ARGUMENTS, **changes}
    return search.run(network, example, **arguments)


def trials_of(folder):
    found = trials_in(search.folder.run_folder.RunFolder(folder).storage())
    return {name: [trial.params for trial in trials] for name, trials in found.items()}


def changed(network, name, change):
    """A copy of a network with one weight changed."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        change(other.get_submodule(name).weight)
    return other


def same_candidates(first, second):
    return first.candidates().equals(second.candidates())


@pytest.fixture(scope="module")
def folder(small_run):
    return small_run


@pytest.fixture(scope="module")
def result(small_run):
    return search.load(small_run)


@pytest.mark.parametrize("share", [0.35, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("resource", ["flops", "params"])
def test_a_plan_costs_what_the_compressed_network_costs(
    small_network, small_input, result, resource, share
):
    plan = result.plan(Budget(**{resource: share}))
    small = plan.apply(small_network)
    totals = result.profile.totals(plan)
    assert count_flops(small, (small_input[:1],))[0] == totals["flops"]
    assert sum(p.numel() for p in small.parameters()) == totals["params"]
    assert totals[resource] <= share * result.profile.dense(resource)
    assert small(small_input).shape == small_network(small_input).shape


def test_the_dense_network_is_the_plan_without_limits(result):
    assert dict(result.plan(Budget())) == {}


def test_both_limits_hold_at_once(result):
    budget = Budget(flops=0.5, params=0.4)
    totals = result.profile.totals(result.plan(budget))
    assert all(totals[name] <= budget.limit(name, result.profile.dense(name)) for name in totals)
    assert result.allocate(budget).loss >= result.allocate(Budget(flops=0.5)).loss
    assert result.allocate(budget).gap == 0.0


def test_candidates_are_exact_and_the_dense_layer_comes_first(small_network, result):
    frame = result.candidates()
    for name, rows in frame.groupby("layer"):
        weight = small_network.get_submodule(name).weight.detach()
        first = rows.iloc[0]
        assert (first["sequence_length"], first["error"]) == (1, 0.0)
        assert first["params"] == weight.numel()
        for text, error in rows.iloc[1::9][["structure", "error"]].itertuples(index=False):
            structure = Structure.parse(text)
            assert relative_error(weight, structure) == pytest.approx(error, abs=1e-6)


def test_the_front_is_not_dominated_and_its_rows_are_their_plans(result):
    front = result.pareto_front()
    values = front[["error", "flops", "params"]].to_numpy(dtype=float)
    for row in values:
        beaten = (values <= row).all(axis=1) & (values < row).any(axis=1)
        assert not beaten.any()
    errors = {(r.layer, r.structure): r.error for r in result.candidates().itertuples()}
    for row in front.itertuples():
        assert result.profile.totals(row.plan) == {"flops": row.flops, "params": row.params}
        assert row.flops_ratio == row.flops / result.profile.flops
        assert row.params_ratio == row.params / result.profile.params
        squares = [errors[name, str(structure)] ** 2 for name, structure in row.plan.items()]
        assert row.error == pytest.approx(sum(squares), abs=1e-9)
    assert front["flops"].is_monotonic_increasing
    assert dict(result.best) in [dict(plan) for plan in front["plan"]]
    assert front["error"].min() == 0.0


def test_the_frames_belong_to_the_caller(result):
    result.pareto_front().pop("plan")
    assert "plan" in result.pareto_front()
    assert list(result.layers()["layer"]) == ["0", "3", "6", "8", "11", "13"]


def test_a_second_call_runs_no_new_trials(small_network, small_input, folder, result):
    before = trials_of(folder)
    again = run(small_network, small_input, run=folder)
    assert trials_of(folder) == before
    assert same_candidates(again, result)


def test_more_trials_go_on_where_the_search_ended(small_network, small_input, tmp_path, result):
    run(small_network, small_input, run=tmp_path, name="small", n_trials=2)
    more = run(small_network, small_input, run=tmp_path, name="small")
    assert same_candidates(more, result)


def test_another_budget_needs_no_search(folder, result):
    before = trials_of(folder)
    assert (
        result.profile.totals(result.plan(Budget(flops=0.35)))["flops"]
        <= 0.35 * result.profile.flops
    )
    with pytest.raises(InfeasibleBudget, match=r"got flops ≤ 1.0%; the least of this search is"):
        result.plan(Budget(flops=0.01))
    assert trials_of(folder) == before


def test_the_same_seed_gives_the_same_plan(small_network, small_input, result):
    again = run(small_network, small_input)
    assert same_candidates(again, result)
    assert dict(again.best) == dict(result.best)
    assert not same_candidates(run(small_network, small_input, seed=1), result)


def test_the_model_is_untouched(small_network, small_input):
    model = copy.deepcopy(small_network).train()
    before = copy.deepcopy(model.state_dict())
    run(model, small_input, n_trials=0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_equal_weights_are_searched_once(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(6, 6, 3, padding=1) for _ in range(4)))
    network[2].weight.data.copy_(network[1].weight)
    result = run(network, torch.zeros(1, 6, 7, 5), run=tmp_path / "run", n_trials=2)
    assert sorted(trials_of(tmp_path / "run")) == ["sekron/1", "sekron/3"]
    frame = result.candidates().drop(columns="layer")
    one, two = (frame[result.candidates()["layer"] == name] for name in ("1", "2"))
    np.testing.assert_array_equal(one.to_numpy(), two.to_numpy())
    assert set(result.plan(Budget(flops=0.4))) >= {"1", "2"}
    assert same_candidates(search.load(tmp_path / "run"), result)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_trials": -1}, "`n_trials` must be at least 0, got -1"),
        ({"max_sequence_length": 1}, "`max_sequence_length` must be at least 2, got 1"),
        ({"families": ()}, r"`families` must be some of sekron, chain, .*, got \(\)"),
        ({"families": ("tt",)}, r"`families` must be some of .*, got \('tt',\)"),
        ({"sampler": "best"}, "`sampler` must be one of neighbour, .*, got 'best'"),
        ({"exclude": ["*"]}, "nothing to replace: 0: in `exclude`; 3: in `exclude`"),
        ({"include": ["nope"]}, "the pattern 'nope' must match a layer"),
    ],
    ids=str,
)
def test_arguments_out_of_range(small_network, small_input, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run(small_network, small_input, run=tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_weight_that_is_not_finite_is_named(small_network, small_input, tmp_path):
    broken = changed(small_network, "8", lambda w: w[0, 0].fill_(float("nan")))
    with pytest.raises(ValueError, match="the weight of layer '8' must be finite, got NaN or Inf"):
        run(broken, small_input, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.ReLU()), "nothing to replace: it has no layers"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4)),
            "0: first convolution, left dense .*; 1: depthwise convolution, not worth it: 10.7%",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), *[nn.Conv2d(4, 4, 1, groups=4) for _ in range(9)]),
            r"5: depthwise convolution, not worth it: 2.8% of the FLOPs; and 4 more, see `sekron",
        ),
    ],
    ids=["no-layers", "reasons", "many"],
)
def test_nothing_to_replace_lists_why(network, message):
    with pytest.raises(ValueError, match=message):
        run(network, torch.zeros(1, 3, 7, 7))


def test_a_database_holds_the_trials_too(small_network, small_input, tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    short = {"n_trials": 1, "max_sequence_length": 2}
    found = run(small_network, small_input, run=tmp_path / "run", storage=url, **short)
    assert not (tmp_path / "run" / "study.log").exists()
    assert same_candidates(found, run(small_network, small_input, **short))
    assert same_candidates(search.load(tmp_path / "run", storage=url), found)


def test_layers_may_be_chosen_by_class_or_function_and_found_again(
    small_network, small_input, tmp_path
):
    arguments = {
        "n_trials": 0,
        "max_sequence_length": 2,
        "run": tmp_path / "run",
        "min_share": 0.02,
    }
    arguments["budget"] = Budget(flops=0.9)
    found = run(small_network, small_input, include=[nn.Conv2d], **arguments)
    assert [layer.kind for layer in found.profile.searched] == ["Conv2d"] * 4
    again = run(
        small_network, small_input, include=lambda _, m: isinstance(m, nn.Conv2d), **arguments
    )
    assert again.best == found.best
    assert search.load(tmp_path / "run").layers().equals(found.layers())
    arguments["budget"] = Budget(flops=1.0)
    with pytest.raises(ValueError, match="holds the search of another network"):
        run(small_network, small_input, include=[nn.Linear], **arguments)
