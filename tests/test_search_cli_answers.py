"""On stdout stands what a command answers, and nothing else."""

import json

import pytest

from tests.forked import answers_of
from tests.test_search_cli_app import QUICK, SHAPE

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


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """What three commands answer on a network that prints."""
    folder = tmp_path_factory.mktemp("loud")
    (folder / "loud.py").write_text(LOUD)
    commands = [
        (("layers", "loud:Loud", *SHAPE, "--json"), {}),
        (("search", "loud:Loud", *QUICK, "--run", "run", "--json"), {}),
        (("layers", "--help"), {}),
    ]
    return answers_of(folder, commands)


def test_what_others_print_goes_to_stderr(answered):
    code, out, err = answered[0]
    assert code == 0
    assert [row["layer"] for row in json.loads(out)["layers"]] == ["conv.0", "conv.1"]
    for who in "module", "library", "network":
        assert f"what {'a' if who == 'library' else 'the'} {who} prints" in err


def test_a_search_answers_alone(answered):
    assert json.loads(answered[1][1])["run"] == "run"


def test_help_is_an_answer(answered):
    assert "Usage: sekron layers" in answered[2][1]
