"""Layers may have any name that torch takes: they are found by it, and shown and written as it."""

import csv
import io

import pandas as pd
import pytest
import torch
from rich.console import Console
from torch import nn

from search.cli.output import print_frame
from search.folder.run_folder import CANDIDATES
from sekron.profiling.profile import profile
from sekron.profiling.selection import patterns_of
from sekron.progress import bar
from tests.test_search_folder_run_folder import run

NAMES = ("=1+1", "a[0]", "-b[red]", "@c[/]", "a*", "a0", "[!x]")


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = {name: nn.Conv2d(4, 4, 3) for name in NAMES if "/" not in name}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


def test_a_name_means_that_layer(network):
    layers = dict(network.named_children())
    example = torch.randn(1, 4, 16, 16)
    for name in layers:
        chosen = profile(network, example, include=[name]).searched
        assert [layer.name for layer in chosen] == [name]
        left = profile(network, example, include=list(layers), exclude=[name]).searched
        assert {layer.name for layer in left} == {*layers} - {name}
    assert patterns_of("include", ["a?"], layers) == ("a?",)


def test_names_are_printed_as_they_are(capsys):
    print_frame(pd.DataFrame({"layer": list(NAMES)}))
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1:]] == list(NAMES)
    console = Console(file=io.StringIO(), width=80)
    with bar() as shown:
        for name in NAMES:
            shown.add_task(name)
        console.print(shown.get_renderable())
    assert all(name in console.file.getvalue() for name in NAMES)


def test_a_table_gives_the_terminal_no_commands(capsys):
    strange = "a\x1b]0;title\x07b\u202e"
    print_frame(pd.DataFrame({f"{strange}s": [strange], "places": [(strange, 1)]}))
    out = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in out)
    assert out.count("a\\x1b]0;title\\x07b\\u202e") == 3


def test_no_cell_of_a_run_is_a_formula(network, tmp_path):
    run(network, torch.randn(1, 4, 16, 16), run=tmp_path, n_trials=0, include=["*"])
    rows = list(csv.DictReader(io.StringIO((tmp_path / CANDIDATES).read_text())))
    assert {row["layer"] for row in rows} == {"'=1+1", "a[0]", "'-b[red]", "a*", "a0", "[!x]"}
