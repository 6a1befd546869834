"""A plan is data: a mapping that survives text and files, with errors that say where."""

import json

import pytest
import torch
from torch import nn

from sekron import Plan, Structure
from sekron.decomposition.metric import Metric
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.network_metric import NetworkMetric, metric_path

LAYERS = {
    "features.0": Structure.parse("chain:7x1x3x1,1x3x1x3@6"),
    "größe": Structure.parse("tucker:7x1x1x1,1x5x1x1,1x1x3x2,1x1x1x1@3,2,4"),
    "": Structure.dense((5, 7)),
}
FORMS = {
    "features.0": Form((1, 0)),
    "größe": Form((3, 0, 2, 1), matmul=True),
    "": Form(matmul=True),
}


def damaged(**changes):
    return json.dumps(json.loads(Plan(LAYERS).to_json()) | changes)


def damaged_form(**changes):
    entry = {"structure": "chain:7x1,1x5@3", "order": [1, 0], "matmul": True}
    return damaged(layers={"whole": "chain:7x5", "a.b": entry | changes})


def test_a_plan_is_a_mapping():
    plan = Plan(LAYERS)
    assert dict(plan) == LAYERS
    assert plan == LAYERS
    assert len(plan) == 3
    assert plan["features.0"] == LAYERS["features.0"]
    assert repr(plan) == "Plan(3 layers)"
    with pytest.raises(KeyError):
        plan["features.1"]


def test_a_plan_does_not_follow_the_mapping_it_was_made_from():
    layers = dict(LAYERS)
    plan = Plan(layers)
    layers.clear()
    assert len(plan) == 3


@pytest.mark.parametrize("layers", [LAYERS, {}], ids=["layers", "empty"])
def test_text_and_file_give_the_plan_back(layers, tmp_path):
    plan = Plan(layers)
    assert Plan.from_json(plan.to_json()) == plan
    assert list(Plan.from_json(plan.to_json())) == list(layers)
    plan.save(tmp_path / "plan.json")
    plan.save(str(tmp_path / "plan.json"))
    assert Plan.load(tmp_path / "plan.json") == Plan.load(str(tmp_path / "plan.json")) == plan


def test_saving_the_same_plan_writes_the_same_bytes(tmp_path):
    Plan(LAYERS).save(tmp_path / "a")
    Plan.load(tmp_path / "a").save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("names", [[name] for name in FORMS] + [list(FORMS)], ids=str)
def test_text_and_file_give_the_forms_back(names, tmp_path):
    plan = Plan(LAYERS, {name: FORMS[name] for name in names})
    plan.save(tmp_path / "plan.json")
    for again in (Plan.from_json(plan.to_json()), Plan.load(tmp_path / "plan.json")):
        assert dict(again) == LAYERS
        forms = {name: again.form(name) for name in LAYERS}
        assert forms == dict.fromkeys(LAYERS, DEFAULT_FORM) | {name: FORMS[name] for name in names}
        assert all(isinstance(form.order, tuple | None) for form in forms.values())
        assert again.to_json() == plan.to_json()


def test_a_form_is_written_only_where_it_is_not_the_default():
    plan = Plan(
        LAYERS, {"features.0": DEFAULT_FORM, "größe": FORMS["größe"], "": Form(None, False)}
    )
    structures = {name: str(structure) for name, structure in LAYERS.items()}
    form = {"order": [3, 0, 2, 1], "matmul": True}
    assert json.loads(plan.to_json())["layers"] == structures | {
        "größe": {"structure": structures["größe"], **form}
    }
    assert Plan(LAYERS, dict.fromkeys(LAYERS, DEFAULT_FORM)).to_json() == Plan(LAYERS).to_json()


def test_a_plan_does_not_follow_the_forms_it_was_made_from():
    forms = dict(FORMS)
    plan = Plan(LAYERS, forms)
    forms.clear()
    assert {name: plan.form(name) for name in plan} == FORMS
    assert plan.form("features.1") == DEFAULT_FORM


def test_a_plan_is_applied_in_its_forms():
    linear = nn.Linear(7, 5)
    structure = Structure.parse("sekron:5x1,1x7@3")
    for order in [(0, 1), (1, 0)]:
        layer = Plan({"": structure}, {"": Form(order, matmul=True)}).apply(linear)
        assert (layer.form, layer.order) == (Form(order, matmul=True), order)
    layer = Plan({"": structure}).apply(linear)
    assert (layer.form, layer.order) == (DEFAULT_FORM, structure.cheapest_order(()))


def test_a_dense_structure_in_a_plan_is_exact():
    linear = nn.Linear(7, 5).double()
    layer = Plan({"": LAYERS[""]}).apply(linear)
    assert (layer.dense_weight() == linear.weight).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan is damaged: Input data was truncated"),
        (Plan(LAYERS).to_json()[:-20], "the plan is damaged: Input data was truncated"),
        ("[]", "the plan is damaged: Expected `object`, got `array`"),
        ("{}", "the plan is damaged: Object missing required field `format`"),
        (damaged(format="other"), "the plan must be 'sekron.plan', but is 'other'"),
        (damaged(version=3), "must have version 1 or 2, got 3; use the release that wrote it"),
        (damaged(metric="../.."), r"damaged: .* - at `\$\.metric`"),
        (damaged(layers=["a"]), r"Expected `object`, got `array` - at `\$\.layers`"),
        (damaged(layers={"a.b": "chain:7xx5"}), "the plan, layer 'a.b': a structure reads .*7xx5"),
        (damaged(layers={"a.b": "kron:7x5"}), "layer 'a.b': family must be one of"),
        (damaged(layers={"a.b": "chain:7x1,1x5@6"}), "layer 'a.b': rank 1 .* at most 5"),
        (damaged(layers={"a.b": None}), r"got `null` - at `\$\.layers\[...\]`"),
        (damaged(layers={"a.b": {}}), r"missing required field `structure` - at `\$\.layers\["),
        (damaged_form(stride=2), r"unknown field `stride` - at `\$\.layers\["),
        (damaged_form(structure=None), r"Expected `str`, got `null` - at `\$\.layers\["),
        (damaged_form(structure="kron:7x5"), "layer 'a.b': family must be one of"),
        (damaged_form(order=[]), r"'a\.b': 'order' must name each of the 2 factors once, got \[\]"),
        (damaged_form(order=[0]), r"'order' must name each of the 2 factors once, got \[0\]"),
        (damaged_form(order=[0, 0]), r"'order' must name each of the 2 .* got \[0, 0\]"),
        (damaged_form(order=[1, 2]), r"'order' must name each of the 2 .* got \[1, 2\]"),
        (damaged_form(order="10"), r"got `str` - at `\$\.layers\[...\]\.order`"),
        (damaged_form(order=5), r"got `int` - at `\$\.layers\[...\]\.order`"),
        (damaged_form(order=[0, None]), r"got `null` - at `\$\.layers\[...\]\.order\["),
    ],
)
def test_damaged_plans_say_where(text, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_json(text)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json is damaged: Input data was truncated"):
        Plan.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"plan\.json is damaged: "):
        Plan.load(path)
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.json")


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(7, 5)


@pytest.fixture
def metric():
    torch.manual_seed(1)
    roots = [torch.randn(n, n).double() for n in (5, 7)]
    return NetworkMetric({"": Metric(*(r @ r.mT + torch.eye(len(r)) for r in roots))})


@pytest.fixture
def calibrated(metric):
    return Plan({"": Structure.parse("sekron:5x1,1x7@2")}, metrics=metric)


def weight_of(plan, linear):
    return plan.apply(linear).dense_weight()


def test_a_plan_knows_its_metric_and_compares_by_it(calibrated, metric):
    plain = Plan(dict(calibrated))
    assert calibrated.metric_digest == metric.digest
    assert plain.metric_digest == ""
    assert calibrated != plain
    assert calibrated.digest != plain.digest
    assert calibrated.in_plain_error() == plain
    assert calibrated == Plan(dict(calibrated), metrics=dict(metric))
    assert repr(calibrated) == f"Plan(1 layers, metric {metric.digest[:12]})"


def test_a_plan_and_its_metric_are_saved_beside_each_other(calibrated, metric, linear, tmp_path):
    calibrated.save(tmp_path / "plan.json")
    file = metric_path(tmp_path, metric.digest)
    assert sorted(tmp_path.iterdir()) == sorted([file, tmp_path / "plan.json"])
    again = Plan.load(tmp_path / "plan.json")
    assert again == calibrated
    assert torch.equal(weight_of(again, linear), weight_of(calibrated, linear))
    plain = weight_of(calibrated.in_plain_error(), linear)
    assert not torch.allclose(weight_of(again, linear), plain, rtol=1e-2)


def test_a_plan_is_not_saved_in_a_folder_that_is_not_there(calibrated, tmp_path):
    for plan in (calibrated, calibrated.in_plain_error()):
        with pytest.raises(FileNotFoundError, match="must be in a folder that exists"):
            plan.save(tmp_path / "none" / "plan.json")


def test_a_plan_is_not_applied_without_its_metric(calibrated, metric, linear, tmp_path):
    calibrated.save(tmp_path / "plan.json")
    metric_path(tmp_path, metric.digest).unlink()
    for lost in (Plan.load(tmp_path / "plan.json"), Plan.from_json(calibrated.to_json())):
        assert lost == calibrated
        message = (
            f"in the metric that it was made in, {metric.digest[:12]}, which is not at hand; load "
            rf"it from a folder that holds metric-.*, or apply `plan\.in_plain_error\(\)`"
        )
        with pytest.raises(ValueError, match=message):
            lost.apply(linear)
        weight = weight_of(lost.in_plain_error(), linear)
        assert torch.equal(weight, weight_of(Plan(dict(calibrated)), linear))
        assert torch.equal(weight_of(lost.within(metric), linear), weight_of(calibrated, linear))


def test_a_plan_is_not_given_another_metric(calibrated, metric):
    other = NetworkMetric({"": Metric(metric[""].output, 2.0 * metric[""].input)})
    for wrong, name in ((other, other.digest[:12]), (NetworkMetric(), "none")):
        message = f"made in, {metric.digest[:12]}, got {name}"
        with pytest.raises(ValueError, match=message):
            Plan.from_json(calibrated.to_json()).within(wrong)
    with pytest.raises(ValueError, match=f"made in, none, got {metric.digest[:12]}"):
        calibrated.in_plain_error().within(metric)


def test_a_plan_of_the_first_version_does_not_tell_its_metric(linear, tmp_path):
    document = json.loads(Plan({"": LAYERS[""]}).to_json()) | {"version": 1}
    del document["metric"]
    (tmp_path / "old.json").write_text(json.dumps(document))
    plan = Plan.load(tmp_path / "old.json")
    assert dict(plan) == {"": LAYERS[""]}
    with pytest.raises(ValueError, match=r"written by version 1, which did not; make it again, or"):
        plan.apply(linear)
    assert plan.in_plain_error().apply(linear) is not None
    plan.save(tmp_path / "again.json")
    assert Plan.load(tmp_path / "again.json") == plan


def test_a_mapping_is_equal_where_there_is_nothing_else(calibrated):
    assert Plan(dict(calibrated)) == dict(calibrated)
    assert calibrated != dict(calibrated)
    assert Plan(LAYERS, {"features.0": FORMS["features.0"]}) != LAYERS


def test_saving_mends_a_metric_file(calibrated, metric, linear, tmp_path):
    metric_path(tmp_path, metric.digest).write_bytes(b"damaged")
    calibrated.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json").apply(linear) is not None


def test_a_plan_is_made_of_structures():
    with pytest.raises(TypeError, match=r"layer '0' must get a `Structure`, got str; `Structure.p"):
        Plan({"0": "chain:16x1x3x1,1x8x1x3@4"})
