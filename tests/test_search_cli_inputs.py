"""Networks that take several inputs, integers or keyword arguments, from their lines to a rival."""

import json

import pytest
import torch
from safetensors.torch import save_file

import sekron
from search.folder.run_folder import RunFolder
from tests.test_search_cli_app import files, sekron_command

__all__ = ["files", "sekron_command"]  # fixtures are found by their names

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(50, 20)
        self.first, self.second = nn.Linear(20, 24), nn.Linear(24, 28)
        self.last = nn.Linear(28, 3)

    def rest(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))

class Two(Net):
    def forward(self, x, other):
        return self.rest(x + 2 * other)

class Ids(Net):
    def forward(self, ids):
        assert ids.dtype == torch.int64
        return self.rest(self.words(ids))

class Encoder(Net):
    def forward(self, *, input_ids, mask=None, bias=None):
        assert mask is not None and mask.dtype == torch.bool
        return self.rest(self.words(input_ids) * mask[..., None])

class Mixed(Net):
    def forward(self, x, *, mask):
        return self.rest(x * mask[..., None])

class Batch(Net):
    def forward(self, batch):
        return self.rest(batch["x"] * batch["mask"][..., None])
"""
QUICK = ("--trials", "1", "--max-length", "2", "--measure-seconds", "0", "--flops", "70%")
CASES = {
    "Two": (["2x7x20", "2x7x20"], {"0": torch.randn(9, 7, 20), "1": torch.randn(9, 7, 20)}),
    "Ids": (["2x7:int64:50"], {"any": torch.arange(63).view(9, 7) % 50}),
    "Encoder": (
        ["input_ids:2x7:int64", "mask:2x7:bool"],
        {
            "mask": torch.arange(63).view(9, 7) % 3 > 0,
            "input_ids": torch.arange(63).view(9, 7) % 50,
        },
    ),
    "Mixed": (
        ["2x7x20", "mask:2x7:bool"],
        {"0": torch.randn(9, 7, 20), "mask": torch.arange(63).view(9, 7) % 3 > 0},
    ),
    "Batch": (
        ["x:2x7x20", "mask:2x7:bool"],
        {"x": torch.randn(9, 7, 20), "mask": torch.arange(63).view(9, 7) % 3 > 0},
    ),
}


@pytest.fixture
def modules(files):
    (files / "several_inputs.py").write_text(NETWORKS)
    return files


@pytest.mark.parametrize("name", CASES)
def test_what_forward_takes_goes_through_all_commands(sekron_command, modules, name):
    inputs, tensors = CASES[name]
    save_file(tensors, modules / f"{name}.safetensors")
    joined = ("--input", ",".join(inputs))
    repeated = tuple(word for text in inputs for word in ("--input", text))
    spec = f"several_inputs:{name}"
    code, out, err = sekron_command("layers", spec, *joined)
    assert code == 0, err
    assert sekron_command("layers", spec, *repeated) == (code, out, err)
    options = (*QUICK, "--run", f"run-{name}", "--calibration", f"{name}.safetensors")
    code, _, err = sekron_command("search", spec, *repeated, *options)
    assert code == 0, err
    recorded = RunFolder(modules / f"run-{name}").read()
    code, _, err = sekron_command("search", spec, *joined, *options)  # goes on
    assert code == 0, err
    assert RunFolder(modules / f"run-{name}").read() == recorded
    assert len(recorded.source.inputs) == len(inputs)
    assert sekron_command("front", f"run-{name}")[0] == 0
    code, _, err = sekron_command("apply", f"run-{name}", "--output", f"small-{name}.safetensors")
    assert code == 0, err
    namespace = {}
    exec(NETWORKS, namespace)
    small = sekron.load(namespace[name](), modules / f"small-{name}.safetensors")
    assert sekron.network.surgery.structures_of(small)
    code, out, err = sekron_command("compare", f"run-{name}", *options[-2:], "--max-seconds", "600")
    assert code == 0, err
    assert "activation_svd" in out


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["ids:1x7:int64,ids:1x7:int64"], "the name of an input must stand once, got 'ids' again"),
        (["1x7:int64,"], "an input reads '1x3x224x224'"),
        (["1x7:long"], "an input's dtype must be one of float32"),
        (["1x7x20", "1x7x20"], "the network must run on the example input, but on"),
    ],
)
def test_inputs_that_are_none_are_refused(sekron_command, modules, inputs, message):
    given = [word for text in inputs for word in ("--input", text)]
    code, out, err = sekron_command("layers", "several_inputs:Ids", *given)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("tensors", "got"),
    [
        ({"0": torch.zeros(9, 7, 20)}, "got 0 (9, 7, 20) torch.float32"),
        ({"0": torch.zeros(9, 7, 20), "1": torch.zeros(8, 7, 20)}, "1 (8, 7, 20) torch.float32"),
        ({"0": torch.zeros(9, 7, 20), "x": torch.zeros(9, 7, 20)}, "x (9, 7, 20) torch.float32"),
        ({"0": torch.zeros(9, 7, 20), "1": torch.zeros(9, 7)}, "1 (9, 7) torch.float32"),
        (
            {"0": torch.zeros(9, 7, 20), "1": torch.zeros(9, 7, 20, dtype=torch.int64)},
            "1 (9, 7, 20) torch.int64",
        ),
    ],
)
def test_files_that_do_not_hold_every_input_are_refused(sekron_command, modules, tensors, got):
    save_file(tensors, modules / "wrong.safetensors")
    spec = ("several_inputs:Two", "--input", "2x7x20,2x7x20")
    options = (*QUICK, "--run", "wrong", "--calibration", "wrong.safetensors")
    code, out, err = sekron_command("search", *spec, *options)
    assert (code, out) == (2, "")
    assert "must hold a tensor (N, …) for each of 0, 1, all of one N, got" in err
    assert got in err
    assert err.count("\n") == 1


def test_what_a_folder_says_of_inputs_is_checked(sekron_command, modules):
    options = ("--input", "2x7:int64:50", *QUICK, "--run", "checked")
    assert sekron_command("search", "several_inputs:Ids", *options)[0] == 0
    record = json.loads((modules / "checked" / "run.json").read_text())
    record["source"]["inputs"][0]["below"] = -1
    (modules / "checked" / "run.json").write_text(json.dumps(record))
    for command in (("front", "checked"), ("compare", "checked")):
        code, out, err = sekron_command(*command)
        assert (code, out) == (2, "")
        assert "checked/run.json is damaged: an input of int64 must have its integers below" in err


def test_the_funnel_takes_one_tensor_of_images(sekron_command, modules):
    options = ("--data", "none.safetensors", "--output", "out.safetensors")
    for inputs in ("2x7x20,2x7x20", "x:2x7x20"):
        code, _, err = sekron_command(
            "funnel", "several_inputs:Two", "--input", inputs, *options, "--flops", "60%"
        )
        assert code == 2
        assert "trains on one tensor of images: give one --input, without a name" in err
