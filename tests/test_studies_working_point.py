"""Layers judged again in the compressed network."""

import pytest
import torch
from torch import nn

import search
from sekron.calibration.divergence import reference_of
from sekron.decomposition.metric import ERROR_POWER
from sekron.forward.inputs import as_arguments
from studies.repair.working_point import _given_back, _weighed, judged_again

BUDGET = search.Budget(flops=0.5)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 11, 3), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(11, 13, 3), nn.Flatten(), nn.Linear(208, 5)).eval()
    images = torch.randn(4, 5, 3, 10, 10)
    result = search.run(
        model,
        images[0, :1],
        budget=BUDGET,
        n_trials=0,
        run=tmp_path_factory.mktemp("run"),
        measure_seconds=0,
        calibration=list(images),
        progress=False,
    )
    return model, result, reference_of(model, map(as_arguments, images))


def test_what_a_layer_lost_is_all_that_the_output_lost_where_it_alone_is_compressed(found):
    model, result, judging = found
    plan = result.plan(BUDGET)
    name = next(iter(plan))
    alone = type(plan)({name: plan[name]}, metrics=result.metrics)
    divergence, given_back = _given_back(model, alone, judging)
    assert divergence > 1e-4
    assert given_back == pytest.approx({name: 0.0}, abs=1e-6)
    assert _given_back(model, alone, judging)[0] == divergence


def test_sensitivities_stay_where_layers_gain_as_they_were_judged(found):
    _, result, _ = found
    plan = result.plan(BUDGET)
    rows = dict(zip(result.tables, result.choices.choice(plan), strict=True))
    gains = {
        name: 3.0 * table.sensitivity * float(table.errors[rows[name]]) ** ERROR_POWER
        for name, table in result.tables.items()
        if name in plan
    }
    assert len(gains) > 1
    weighed = _weighed(result, plan, gains, divergence=1e-3)
    for name, table in result.tables.items():
        assert weighed.tables[name].sensitivity == pytest.approx(table.sensitivity)
    first, *others = gains
    more = _weighed(result, plan, {**gains, first: 9.0 * gains[first]}, divergence=1e-3)
    assert more.tables[first].sensitivity > result.tables[first].sensitivity
    assert all(more.tables[n].sensitivity < result.tables[n].sensitivity for n in others)


def test_the_first_plan_is_the_search_s_and_all_are_within_the_budget(found):
    model, result, judging = found
    plans = judged_again(model, result, BUDGET, judging)
    assert len(plans) == 4
    assert plans[0][0] == result.plan(BUDGET)
    limit = BUDGET.limit("flops", result.profile.dense("flops"))
    assert all(result.profile.totals(plan)["flops"] <= limit for plan, _ in plans)
