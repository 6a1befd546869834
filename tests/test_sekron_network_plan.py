"""A plan is data: a mapping that survives text and files, with errors that say where."""

import json

import pytest
from torch import nn

from sekron import Plan, Structure
from sekron.layers.operations import DEFAULT, Form

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
        assert forms == dict.fromkeys(LAYERS, DEFAULT) | {name: FORMS[name] for name in names}
        assert all(isinstance(form.order, tuple | None) for form in forms.values())
        assert again.to_json() == plan.to_json()


def test_a_form_is_written_only_where_it_is_not_the_default():
    plan = Plan(LAYERS, {"features.0": DEFAULT, "größe": FORMS["größe"], "": Form(None, False)})
    structures = {name: str(structure) for name, structure in LAYERS.items()}
    form = {"order": [3, 0, 2, 1], "matmul": True}
    assert json.loads(plan.to_json())["layers"] == structures | {
        "größe": {"structure": structures["größe"], **form}
    }
    assert Plan(LAYERS, dict.fromkeys(LAYERS, DEFAULT)).to_json() == Plan(LAYERS).to_json()


def test_a_plan_does_not_follow_the_forms_it_was_made_from():
    forms = dict(FORMS)
    plan = Plan(LAYERS, forms)
    forms.clear()
    assert {name: plan.form(name) for name in plan} == FORMS
    assert plan.form("features.1") == DEFAULT


def test_a_plan_is_applied_in_its_forms():
    linear = nn.Linear(7, 5)
    structure = Structure.parse("sekron:5x1,1x7@3")
    for order in [(0, 1), (1, 0)]:
        layer = Plan({"": structure}, {"": Form(order, matmul=True)}).apply(linear)
        assert (layer.form, layer.order) == (Form(order, matmul=True), order)
    layer = Plan({"": structure}).apply(linear)
    assert (layer.form, layer.order) == (DEFAULT, structure.cheapest_order(()))


def test_a_dense_structure_in_a_plan_is_exact():
    linear = nn.Linear(7, 5).double()
    layer = Plan({"": LAYERS[""]}).apply(linear)
    assert (layer.dense_weight() == linear.weight).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan must be JSON, but line 1 is not"),
        (Plan(LAYERS).to_json()[:-20], "the plan must be JSON, but line 7 is not"),
        ("[]", "must have 'format': 'sekron.network.plan'; it is no plan of ours"),
        ("{}", "must have 'format': 'sekron.network.plan'"),
        (damaged(format="other"), "must have 'format': 'sekron.network.plan'"),
        (damaged(version=2), "must have version 1, got 2; use the release that wrote it"),
        (damaged(layers=["a"]), "must have 'layers', a mapping of layer to structure"),
        (damaged(layers={"a.b": "chain:7xx5"}), "the plan, layer 'a.b': a structure reads .*7xx5"),
        (damaged(layers={"a.b": "kron:7x5"}), "layer 'a.b': family must be one of"),
        (damaged(layers={"a.b": "chain:7x1,1x5@6"}), "layer 'a.b': rank 1 .* at most 5"),
        (damaged(layers={"a.b": None}), "layer 'a.b': a layer must be a structure"),
        (damaged(layers={"a.b": {}}), r"'a\.b': a layer must be a structure, or have .*, got \{\}"),
        (damaged_form(stride=2), "layer 'a.b': a layer must .*, or have 'structure', 'order' and"),
        (damaged_form(structure=None), "layer 'a.b': a structure reads .*None"),
        (damaged_form(structure="kron:7x5"), "layer 'a.b': family must be one of"),
        (damaged_form(order=[]), r"'a\.b': 'order' must name each of the 2 factors once, got \[\]"),
        (damaged_form(order=[0]), r"'order' must name each of the 2 factors once, got \[0\]"),
        (damaged_form(order=[0, 0]), r"'order' must name each of the 2 .* got \[0, 0\]"),
        (damaged_form(order=[1, 2]), r"'order' must name each of the 2 .* got \[1, 2\]"),
        (damaged_form(order="10"), "'order' must name each of the 2 factors once, got '10'"),
        (damaged_form(order=5), "^the plan, layer 'a.b': "),
        (damaged_form(order=[0, None]), "^the plan, layer 'a.b': "),
    ],
)
def test_damaged_plans_say_where(text, message):
    with pytest.raises(ValueError, match=message):
        Plan.from_json(text)


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"plan\.json must be JSON, but line 1 is not"):
        Plan.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"plan\.json must be JSON, but is not text"):
        Plan.load(path)
    with pytest.raises(FileNotFoundError):
        Plan.load(tmp_path / "none.json")
