"""A plan is data: a mapping that survives text and files, with errors that say where."""

import json

import pytest
from torch import nn

from sekron import Plan, Structure

LAYERS = {
    "features.0": Structure.parse("chain:7x1x3x1,1x3x1x3@6"),
    "größe": Structure.parse("tucker:7x1x1x1,1x5x1x1,1x1x3x2,1x1x1x1@3,2,4"),
    "": Structure.dense((5, 7)),
}


def damaged(**changes):
    return json.dumps(json.loads(Plan(LAYERS).to_json()) | changes)


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


def test_a_dense_structure_in_a_plan_is_exact():
    linear = nn.Linear(7, 5).double()
    layer = Plan({"": LAYERS[""]}).apply(linear)
    assert (layer.dense_weight() == linear.weight).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the plan must be JSON, but line 1 is not"),
        (Plan(LAYERS).to_json()[:-20], "the plan must be JSON, but line 7 is not"),
        ("[]", "must have 'format': 'sekron.plan'; it is no plan of ours"),
        ("{}", "must have 'format': 'sekron.plan'"),
        (damaged(format="other"), "must have 'format': 'sekron.plan'"),
        (damaged(version=2), "must have version 1, got 2; use the release that wrote it"),
        (damaged(layers=["a"]), "must have 'layers', a mapping of layer to structure"),
        (damaged(layers={"a.b": "chain:7xx5"}), "the plan, layer 'a.b': a structure reads .*7xx5"),
        (damaged(layers={"a.b": "kron:7x5"}), "layer 'a.b': family must be one of"),
        (damaged(layers={"a.b": "chain:7x1,1x5@6"}), "layer 'a.b': rank 1 .* at most 5"),
        (damaged(layers={"a.b": None}), "layer 'a.b': a layer must be a structure"),
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
