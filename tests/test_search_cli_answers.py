"""On stdout stands what a command answers, and nothing else."""

import json

import pytest

from tests.test_search_cli_app import QUICK, SHAPE, in_another_process

LOUD = """
import os
import torch
from torch import nn

print("what the module prints")
os.write(1, b"what a library prints\\n")

class Loud(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

    def forward(self, images):
        print("what the network prints")
        return self.conv(images)
"""


@pytest.fixture
def loud(tmp_path):
    """A directory with a network that prints."""
    (tmp_path / "loud.py").write_text(LOUD)
    return tmp_path


def test_what_others_print_goes_to_stderr(loud):
    done = in_another_process(loud, "layers", "loud:Loud", *SHAPE, "--json")
    assert done.returncode == 0
    assert [row["layer"] for row in json.loads(done.stdout)["layers"]] == ["conv.0", "conv.1"]
    for who in "module", "library", "network":
        assert f"what {'a' if who == 'library' else 'the'} {who} prints" in done.stderr


def test_a_search_answers_alone(loud):
    done = in_another_process(loud, "search", "loud:Loud", *QUICK, "--run", "run", "--json")
    assert json.loads(done.stdout)["run"] == "run"


def test_help_is_an_answer(loud):
    assert "Usage: sekron layers" in in_another_process(loud, "layers", "--help").stdout
