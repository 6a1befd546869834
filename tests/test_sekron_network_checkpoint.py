"""One file holds the weights and the plan; what is loaded computes exactly what was saved."""

import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sekron import Plan, SeKronConv2d, Structure, load, save
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.checksum import CHECKSUM
from sekron.network.surgery import forms_of, structures_of
from sekron.network.weights import load_weights

ROOT = Path(__file__).parents[1]
CONV = Structure.parse("sekron:7x1x3x1,1x3x1x3@4")
SPLIT = Structure.parse("ring:7x2x1x1,1x3x3x1,1x1x1x3@2,3,2")
HEAD = Structure.parse("tucker:5x1,1x7@3")
FORMS = {"2.1": Form((1, 0, 2), matmul=True), "5": Form((0, 1))}


def network(width=6, outputs=5):
    return nn.Sequential(
        nn.Conv2d(3, 7, 3),
        nn.BatchNorm2d(7),
        nn.Sequential(nn.Conv2d(7, width, 1), nn.Conv2d(width, 7, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(7, outputs),
    )


def compressed(forms=None):
    torch.manual_seed(0)
    model = network()
    model(torch.randn(4, 3, 9, 9))  # statistics that are not those of a fresh network
    return Plan({"0": CONV, "2.1": SPLIT, "5": HEAD}, forms).apply(model).eval()


@pytest.fixture
def path(tmp_path):
    save(compressed(), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_what_is_loaded_is_what_was_saved(path):
    small, fresh = compressed(), network()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    again = load(fresh, path).eval()
    assert structures_of(again) == {"0": CONV, "2.1": SPLIT, "5": HEAD}
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    for name, tensor in small.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    for name, tensor in fresh.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_forms_are_saved_and_loaded(tmp_path):
    small = compressed(FORMS)
    save(small, tmp_path / "small")
    again = load(network(), tmp_path / "small").eval()
    assert forms_of(again) == forms_of(small) == {"0": DEFAULT_FORM} | FORMS
    assert again.get_submodule("2.1").order == (1, 0, 2)
    shapes = [tuple(weight.shape) for weight in again.get_submodule("2.1").weights]
    assert shapes != [tuple(weight.shape) for weight in compressed().get_submodule("2.1").weights]
    x = torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
        torch.testing.assert_close(again(x), compressed()(x), rtol=1e-4, atol=1e-5)


def test_a_damaged_form_inside_is_named(tmp_path):
    plan = json.loads(Plan({"0": CONV}, {"0": Form((1, 0))}).to_json())
    plan["layers"]["0"]["order"] = [1, 1]
    metadata = {"sekron.plan": json.dumps(plan)}
    save_file(network().state_dict(), tmp_path / "other", metadata=metadata)
    message = r"^the plan in .*other, layer '0': 'order' must name each of the 2 factors once, got"
    with pytest.raises(ValueError, match=message):
        load(network(), tmp_path / "other")


def test_a_file_of_the_first_version_is_read(tmp_path):
    small = Plan({"0": CONV, "5": HEAD}).apply(network())
    save(small, tmp_path / "new")
    with safe_open(str(tmp_path / "new"), framework="pt") as file:
        plan = json.loads(file.metadata()["sekron.plan"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    del plan["metric"]
    metadata = {"sekron.plan": json.dumps(plan | {"version": 1})}
    save_file(tensors, tmp_path / "old", metadata=metadata)
    old = load(network(), tmp_path / "old")
    assert all(torch.equal(t, small.state_dict()[n]) for n, t in old.state_dict().items())


def test_the_plan_can_be_read_without_us(path):
    with safe_open(str(path), framework="pt") as file:
        plan = json.loads(file.metadata()["sekron.plan"])
    assert plan["layers"] == {"0": str(CONV), "2.1": str(SPLIT), "5": str(HEAD)}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_a_dense_network_and_any_layout_can_be_saved(memory_format, tmp_path):
    model = network().to(memory_format=memory_format)
    save(model, str(tmp_path / "dense"))
    again = load(network(), str(tmp_path / "dense"))
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in again.state_dict().items())


def test_a_single_layer_can_be_saved(tmp_path):
    layer = SeKronConv2d(CONV)
    save(layer, tmp_path / "layer")
    again = load(nn.Conv2d(3, 7, 3), tmp_path / "layer")
    assert torch.equal(again.dense_weight(), layer.dense_weight())


def test_shared_layers_and_weights_stay_shared(tmp_path):
    def make():
        model = nn.ModuleDict({"a": nn.Linear(7, 7), "b": nn.Linear(7, 7), "c": nn.Linear(7, 7)})
        model["again"] = model["a"]
        model["c"].weight = model["b"].weight
        return model

    small = Plan({"a": Structure.parse("chain:7x1,1x7@2")}).apply(make())
    save(small, tmp_path / "shared")
    again = load(make(), tmp_path / "shared")
    assert again["a"] is again["again"]
    assert again["b"].weight is again["c"].weight
    assert torch.equal(again["a"].dense_weight(), small["a"].dense_weight())
    assert torch.equal(again["c"].weight, small["c"].weight)


def test_a_network_of_another_shape_is_named(path):
    with pytest.raises(ValueError, match=r"layer '2\.1' has a weight \(7, 11, 3, 3\) there"):
        load(network(width=11), path)
    with pytest.raises(ValueError, match="layer '5' has a weight"):
        load(network(outputs=3), path)
    with pytest.raises(ValueError, match="layer '0' is Flatten there; it was made for another"):
        load(nn.Sequential(nn.Flatten()), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("2.0.bias"), "but has no tensor '2.0.bias'"),
        (lambda w: w.update(new=torch.zeros(1)), "which has no tensor 'new'"),
        (
            lambda w: w.update({"1.bias": torch.zeros(3)}),
            r"but tensor '1.bias' has the shape \(3,\) instead of \(7,\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_change_nothing(change, message):
    model = compressed()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    change(weights)
    with pytest.raises(ValueError, match=f"^the file must fit the network, {message}"):
        load_weights(model, weights, "the file")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


@pytest.mark.parametrize("keep", [0, 5, 100, -1], ids=lambda n: f"{n}-bytes")
def test_a_cut_file_is_named(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"small\.safetensors must be a safetensors file: "):
        load(network(), path)


def test_a_file_with_a_damaged_header_is_named(path):
    data = path.read_bytes()
    path.write_bytes(data[:20] + b"\xff" + data[21:])
    with pytest.raises(ValueError, match=r"small\.safetensors must be a safetensors file: "):
        load(network(), path)


def test_a_checkpoint_of_others_has_no_plan(tmp_path):
    save_file(compressed().state_dict(), tmp_path / "other")
    with pytest.raises(ValueError, match=r"other must have been written by `sekron.save`: it hol"):
        load(network(), tmp_path / "other")


def test_a_damaged_plan_inside_is_named(tmp_path):
    save_file(network().state_dict(), tmp_path / "other", metadata={"sekron.plan": "{"})
    with pytest.raises(
        ValueError, match=r"the plan in .*other is damaged: Input data was truncated"
    ):
        load(network(), tmp_path / "other")


def written_again(path, change):
    """Write a saved network again, its tensors changed, without a checksum as of old."""
    with safe_open(str(path), framework="pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != CHECKSUM}
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata=metadata)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.99])
def test_a_changed_bit_is_found_by_the_checksum(path, place):
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + int(place * (len(data) - start))] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"small\.safetensors is damaged: its tensors do not have"):
        load(network(), path)


def test_a_file_of_an_earlier_release_has_no_checksum(path):
    written_again(path, lambda _: None)
    assert structures_of(load(network(), path)) == {"0": CONV, "2.1": SPLIT, "5": HEAD}


@pytest.mark.parametrize("name", ["0.weights.1", "0.bias", "1.running_var", "2.0.weight"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(path, name, value):
    written_again(path, lambda tensors: tensors[name].view(-1)[-1:].fill_(value))
    with pytest.raises(ValueError, match=rf"must be finite, got NaN or Inf in tensor '{name}'"):
        load(network(), path)


def test_a_network_that_is_not_finite_is_not_saved(tmp_path):
    small = compressed()
    with torch.no_grad():
        small[0].weights[0].view(-1)[0] = math.inf
    with pytest.raises(ValueError, match="the network must be finite, got NaN or Inf in tensor '0"):
        save(small, tmp_path / "small")
    assert list(tmp_path.iterdir()) == []


class Masked(nn.Module):
    """Has a mask as transformers have them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(7, 7)
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_mask_is_as_it_was(tmp_path, device):
    save(Plan({"layer": Structure.parse("chain:7x1,1x7@2")}).apply(Masked()), tmp_path / "small")
    with torch.device(device):
        fresh = Masked()
    assert torch.equal(load(fresh, tmp_path / "small").mask, Masked().mask)


@pytest.mark.parametrize("name", ["0.weights.1", "0.bias", "1.running_var", "2.0.weight"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64], ids=str)
def test_nothing_is_cast_into_weights(path, name, dtype):
    def change(tensors):
        tensors[name] = tensors[name].to(dtype)

    written_again(path, change)
    message = rf"must fit the network, but tensor '{name}' is of {dtype} instead of torch\.float32"
    with pytest.raises(ValueError, match=message):
        load(network(), path)


class Versioned(nn.Linear):
    """Takes weights of its own version only, as torchvision's MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        assert metadata.get("version") == 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_modules_see_their_version(tmp_path):
    model = nn.Sequential(Versioned(3, 2), nn.Linear(2, 4))
    save(model, tmp_path / "model.safetensors")
    fresh = load(nn.Sequential(Versioned(3, 2), nn.Linear(2, 4)), tmp_path / "model.safetensors")
    assert torch.equal(fresh[0].weight, model[0].weight)
    load_weights(fresh, dict(model.state_dict()), "a dictionary")


def test_arguments_in_the_wrong_order_are_told(path):
    with pytest.raises(TypeError, match=r"takes the dense network, then the path .* exchange them"):
        load(path, nn.Linear(2, 2))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(network(), tmp_path / "none")


PROCESS = """
    import sys, torch
    from torch import nn
    from sekron import Plan, Structure, load, save

    def network():
        torch.manual_seed(0)
        return nn.Conv2d(16, 16, 3).double()

    how, folder, *texts = sys.argv[1:]
    for number, text in enumerate(texts):
        path = f"{folder}/small-{number}"
        if how == "save":
            save(Plan({"": Structure.parse(text)}).apply(network()), path)
        small = load(network(), path)
        print(float(small(torch.ones(1, 16, 5, 5).double().cumsum(2)).sum()))
"""

TEXTS = (
    "sekron:1x1x3x1,16x1x1x3,1x16x1x1@3,4",
    "sekron:4x1x1x1,4x1x3x1,1x4x1x3,1x4x1x1@3,3,2",
    "ring:16x1x3x1,1x16x1x3@3,4",
    "ring:16x1x1x1,1x16x1x1,1x1x3x3@3,3,3",
)


def test_another_process_computes_the_same(tmp_path):
    """Whatever order its sets have, which is another one in every process."""
    printed = []
    for seed in range(4):
        how = "load" if seed else "save"
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", textwrap.dedent(PROCESS), how, tmp_path, *TEXTS]
        done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
        printed.append([float(line) for line in done.stdout.splitlines()])
    assert len(printed[0]) == len(TEXTS)
    for other in printed[1:]:
        assert other == pytest.approx(printed[0], rel=1e-12)


@pytest.mark.parametrize(
    "text", ["sekron:1x1x3x1,16x1x1x3,1x16x1x1@3,4", "ring:16x1x3x1,1x16x1x3@3,4"]
)
def test_a_file_whose_order_nobody_knows_is_refused(text, tmp_path):
    conv = nn.Conv2d(16, 16, 3)
    save(Plan({"": Structure.parse(text)}).apply(conv), tmp_path / "small")
    with safe_open(str(tmp_path / "small"), framework="pt") as file:
        plan = json.loads(file.metadata()["sekron.plan"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    del plan["metric"]
    metadata = {"sekron.plan": json.dumps(plan | {"version": 1})}
    save_file(tensors, tmp_path / "old", metadata=metadata)
    with pytest.raises(ValueError, match=r"old was written by version 1, which did not tell in"):
        load(conv, tmp_path / "old")


def test_tensors_that_share_memory_alone_are_saved_whole(tmp_path):
    """A weight tied by its storage, and a buffer that is a part of a longer one."""

    def make():
        torch.manual_seed(0)
        model = nn.ModuleDict({"a": nn.Linear(7, 7), "b": nn.Linear(7, 7), "c": nn.Linear(7, 7)})
        model["c"].weight.data = model["b"].weight.data
        model.register_buffer("part", torch.arange(10.0)[:6])
        return model

    small = Plan({"a": Structure.parse("chain:7x1,1x7@2")}).apply(make())
    save(small, tmp_path / "tied")
    torch.manual_seed(1)
    again = load(make(), tmp_path / "tied")
    state = small.state_dict()
    assert all(torch.equal(state[name], kept) for name, kept in again.state_dict().items())


def test_a_layer_larger_than_its_file_is_not_made(path, monkeypatch):
    """A ring's ranks may be so large that its factors fill any memory."""
    with safe_open(str(path), framework="pt") as file:
        plan = json.loads(file.metadata()["sekron.plan"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
    text = json.dumps(plan).replace("@2,3,2", "@18,18,18")
    save_file(tensors, path, metadata={"sekron.plan": text})
    monkeypatch.setattr("sekron.network.checkpoint.rebuild", None)
    with pytest.raises(
        ValueError, match=r"but layer '2\.1' has \d+ numbers and the file \d+: it is"
    ):
        load(network(), path)
