"""`sekron export` and `sekron verify`, as a user types them."""

import json
import sys

import pytest
import torch

import sekron
from search.verification import verify as module
from search.verification.checks import CHECKS
from sekron import Plan, Structure

NETWORKS = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, image, mask):
        return {"maps": self.conv(image) * mask}

class Branching(Two):
    def forward(self, image, mask):
        return super().forward(image, mask) if image.sum() != 0 else image
"""
INPUTS = ("--input", "2x8x9x7", "--input", "mask:2x1x1x7:bool")


@pytest.fixture
def command(tmp_path, monkeypatch, command_line):
    """Run a command where there is a saved network; return its exit code, stdout and stderr."""
    (tmp_path / "deployed.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "deployed", raising=False)
    import deployed  # noqa: PLC0415  is there only now

    plan = Plan({"conv": Structure.parse("sekron:3x2x3x1,4x4x1x3@6")})
    sekron.save(plan.apply(deployed.Two()), "small.safetensors")

    def run(name, *arguments, model="Two"):
        model = ("--model", f"deployed:{model}")
        return command_line(name, "small.safetensors", *model, *INPUTS, *arguments)

    return run


@pytest.mark.slow
def test_export(command, tmp_path):
    files = ("--onnx", "a.onnx", "--openvino", "a.xml", "--pt2", "a.pt2", "--opset", "19")
    code, out, err = command("export", *files)
    assert (code, err) == (0, "")
    for line, (path, kind) in zip(
        out.splitlines(),
        {"a.onnx": "ONNX opset 19", "a.xml": "OpenVINO IR", "a.pt2": "torch.export"}.items(),
        strict=True,
    ):
        inputs = "image (batch, 8, height, 7), mask (batch, 1, 1, 7)"
        assert line.startswith(f"{path}: {kind}, {inputs} -> maps (batch, 12, height, 7); ")
        assert float(line.split()[-1]) < 1e-4
        assert (tmp_path / path).is_file()


@pytest.mark.parametrize(
    ("arguments", "model", "message"),
    [
        ((), "Two", "a file must be named to write: --onnx, --openvino or --pt2."),
        (("--pt2", "a.onnx"), "Two", "the file must end in '.pt2', got 'a.onnx'."),
        (("--pt2", "a.pt2"), "Branching", "deployed.py:15 in forward, `return super()"),
        (("--onnx", "no/a.onnx"), "Two", "no/a.onnx must be in a folder that exists"),
        (("--onnx", "a.onnx"), "missing", "must have the attribute 'missing'"),
    ],
)
def test_what_export_refuses_is_one_line(command, tmp_path, arguments, model, message):
    before = set(tmp_path.iterdir())
    code, out, err = command("export", *arguments, model=model)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert set(tmp_path.iterdir()) <= before | {tmp_path / "__pycache__"}


def test_what_was_written_is_told_though_the_next_file_fails(command, tmp_path):
    code, out, err = command("export", "--onnx", "b.onnx", "--pt2", "b.xml")
    assert (code, out.count("\n"), err.count("\n")) == (2, 1, 1)
    assert out.startswith("b.onnx: ONNX opset")
    assert (tmp_path / "b.onnx").is_file()
    assert "the file must end in '.pt2', got 'b.xml'." in err


def test_a_runtime_that_is_not_installed_is_one_line(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, out, err = command("export", "--openvino", "a.xml")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "pip install 'sekron[openvino]'" in err


def test_verify(command, monkeypatch):
    names = ("torch", "reload", "bfloat16")
    monkeypatch.setattr(module, "CHECKS", {name: CHECKS[name] for name in names})
    code, out, err = command("verify", "--json", "--measure-seconds", "0.01")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [finding["check"] for finding in found] == list(names)
    assert all(finding["status"] == "works" for finding in found)
    assert all(finding["time_over_dense"] > 0 for finding in found)

    code, out, err = command("verify", "--measure-seconds", "0")
    assert (code, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split() == [
        "check",
        "status",
        "difference",
        "dense_difference",
        "time_over_dense",
    ]
    assert [row.split()[0] for row in rows] == list(names)


@pytest.mark.parametrize("works_for_dense", [True, False])
def test_the_exit_code_says_what_the_dense_network_does_better(
    command, monkeypatch, works_for_dense
):
    def check(case):
        if works_for_dense and case.network is case.fresh:
            return module.Outcome(0.0)
        raise RuntimeError("out of order\nand more")

    monkeypatch.setattr(module, "CHECKS", {"a": module.Check(check), "torch": CHECKS["torch"]})
    code, out, err = command("verify", "--json", "--measure-seconds", "0")
    assert (code, err) == (int(works_for_dense), "")
    first, second = json.loads(out)
    assert first["status"] == ("fails" if works_for_dense else "skipped")
    assert first["reason"].endswith("RuntimeError: out of order")
    assert second["status"] == "works"
    code, out, _ = command("verify", "--measure-seconds", "0")
    assert code == int(works_for_dense)
    assert out.splitlines()[-1].startswith("a: ")
    assert out.splitlines()[-1].endswith("RuntimeError: out of order")


def test_differences_that_are_no_numbers_are_null(command, monkeypatch):
    monkeypatch.setattr(module, "CHECKS", {"a": module.Check(lambda _: module.Outcome(torch.inf))})
    _, out, _ = command("verify", "--json")
    assert json.loads(out)[0]["difference"] is None


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_where_everything_is_skipped_nothing_is_verified(command, monkeypatch, form):
    def check(_):
        raise RuntimeError("out of order")

    monkeypatch.setattr(module, "CHECKS", dict.fromkeys("ab", module.Check(check)))
    code, out, err = command("verify", *form, "--measure-seconds", "0")
    assert (code, out.count("skipped"), err.count("\n")) == (1, 2, 1)
    assert "nothing was verified: none of the checks works for the dense network" in err
