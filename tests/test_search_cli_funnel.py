"""`sekron funnel`, from files to a network that loads."""

import sys

import pytest
import torch
from safetensors.torch import save_file

import sekron
from sekron.profiling.count import count_flops

IMAGE = torch.zeros(1, 3, 8, 8)

NETWORK = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(12, 4),
    )
"""


@pytest.fixture
def command(tmp_path, monkeypatch, command_line):
    """Run `sekron funnel` beside a network and a file of data."""
    (tmp_path / "funnel_network.py").write_text(NETWORK)
    data = {"images": torch.randn(16, 3, 8, 8), "labels": torch.arange(16) % 4}
    save_file(data, tmp_path / "data.safetensors")
    save_file({"images": data["images"]}, tmp_path / "images.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        first = ("funnel", "funnel_network:small", "--input", "1x3x8x8", "--epochs", "1")
        return command_line(*first, *arguments)

    return run


def test_the_command_writes_a_network_that_loads(command, tmp_path):
    output = ("--output", "small.safetensors")
    code, _, err = command("--data", "data.safetensors", "--flops", "60%", *output)
    assert code == 0
    assert "small.safetensors: 1 layers replaced" in err
    namespace = {}
    exec(NETWORK, namespace)
    small = sekron.load(namespace["small"](), tmp_path / "small.safetensors")
    dense, _ = count_flops(namespace["small"](), (IMAGE,))
    assert count_flops(small, (IMAGE,))[0] <= 0.6 * dense


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "images.safetensors", "--flops", "60%"), "must hold `images` (N, …) and `la"),
        (("--data", "data.safetensors", "--flops", "60%", "--batch-size", "0"), "at least 1, got"),
        (("--data", "data.safetensors", "--flops", "60%", "--schedule", "x"), "gate or global"),
        (("--data", "data.safetensors", "--flops", "1%"), "must be reachable"),
        (("--data", "data.safetensors"), "must limit FLOPs or parameters, got no limit"),
    ],
)
def test_bad_input_of_the_command_is_one_line(command, arguments, message):
    code, out, err = command(*arguments, "--output", "small.safetensors")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_the_folder_of_the_output_is_asked_for_before_the_training(command):
    code, _, err = command("--data", "none.safetensors", "--output", "nowhere/small.safetensors")
    assert code == 2
    assert "nowhere/small.safetensors must be in a folder that exists" in err


def test_without_accelerate_the_command_says_what_to_install(command, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    arguments = ("--data", "data.safetensors", "--flops", "60%", "--output", "small.safetensors")
    code, _, err = command(*arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("pip install 'sekron[finetune]'.")
