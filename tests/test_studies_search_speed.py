import math
import sys

import pytest
import torch
from torch import nn

import search
from search.per_layer.study import LayerStudy
from search.pipeline.course import Course
from sekron.profiling.profile import profile
from studies.search_speed import __main__ as command
from studies.search_speed import wide
from studies.search_speed.networks import network_and_input
from studies.search_speed.stages import watching
from studies.tensorly_time import tensorly_seconds


def test_a_search_is_watched_and_then_no_more(small_network, small_input):
    before = Course.stage, LayerStudy.propose, LayerStudy._add_template
    with watching() as spent:
        result = search.run(
            small_network,
            small_input,
            budget=search.Budget(flops=0.5),
            n_trials=3,
            calibration=[small_input],
            measure_seconds=0,
            progress=False,
        )
    assert (Course.stage, LayerStudy.propose, LayerStudy._add_template) == before
    assert {"profile", "calibration", "layers", "front"} <= spent.seconds.keys()
    assert spent.structures["proposals"] == 3 * len(result.tables)
    parts = {"templates, sekron", "templates, chain", "templates, cp", "proposals"}
    assert spent.structures.keys() == spent.of_threads.keys() == parts
    assert all(part in str(spent) for part in {*spent.seconds, *parts})


def test_what_is_opened_is_timed_too():
    model = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    measured = profile(model, torch.zeros(1, 5, 8))
    seconds, done = tensorly_seconds(model, measured, math.inf)
    assert done == len(measured.searched) > 4
    assert all(spent > 0 for spent in seconds.values())


def test_the_command_prints_every_stage(small_network, monkeypatch, capsys):
    monkeypatch.setattr(command, "SYNTHETIC", ((2, 5),))
    monkeypatch.setattr(command, "network_and_input", lambda *_: (small_network, "2x3x14x11"))
    options = ["--trials", "1", "--include", "*", "--images", "4", "--tensorly", "1"]
    monkeypatch.setattr(sys, "argv", ["search_speed", *options])
    command.main()
    printed = capsys.readouterr().out
    for part in ("stage calibration", "templates, cp", "proposals", "TensorLy, ", "peak memory"):
        assert part in printed


@pytest.mark.slow
@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("name", ["rrdbnet", "vit_b_16"])
def test_the_largest_networks_are_searched_whole(name):
    model, shape = network_and_input(name)
    sizes = [int(size) for size in shape.split("x")]
    if name == "rrdbnet":
        sizes[2:] = 16, 16  # it takes any
    found = profile(model, torch.zeros(sizes))
    assert len(found.searched) == {"rrdbnet": 350, "vit_b_16": 72}[name]


def test_a_linear_layer_is_timed_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["wide", "24", "40", "--trials", "2"])
    wide.main()
    told = capsys.readouterr().out
    assert "24x40" in told
    assert told.count("apply ") == len(wide.SHARES)
