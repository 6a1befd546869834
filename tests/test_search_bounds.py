"""Every number that is read or given has bounds: one short line beyond them, and at once."""

import json
import os
import shutil

import pytest
import torch
from torch import nn

from baselines.rows import Rows
from search.cli.sources import load_model
from search.folder.input_spec import InputSpec
from search.folder.run_folder import RunFolder
from search.pipeline.request import request_of
from sekron import Structure
from sekron.budget import Budget
from sekron.profiling.selection import patterns_of

LAYER = ("profile", "layers", 1)
CALL = (*LAYER, "calls", 0)
HUGE = 2**62
OFF = [
    *(
        ((*CALL, name), value)
        for name in ("stride", "dilation", "output_size", "input_size")
        for value in ([HUGE, 2], [0, 1], [-1, 1], [1], [1] * 3, [1] * 99)
    ),
    *(((*CALL, "groups"), value) for value in (0, -1, 5, HUGE)),
    ((*CALL, "output_size"), [2**30, 2**30]),
    ((*CALL, "stride"), [2**30, 2**30]),
    *(((*LAYER, "flops"), value) for value in (0, -1, 2**61)),
    ((*LAYER, "params"), 7),
    *(((*LAYER, "weight_shape"), value) for value in ([], [3], [0, 1], [-2, -3], [1] * 200)),
    ((*LAYER, "calls"), []),
    *((("profile", name), value) for name in ("flops", "params") for value in (0, -1, 2**61)),
    *((("settings", "max_sequence_length"), value) for value in (1, 9, HUGE)),
    *((("settings", "families"), value) for value in ([], ["x"], ["chain"] * 2, ["x" * 10**6])),
    *((("settings", "sampler"), value) for value in ("x", "y" * 10**6)),
    (("settings", "n_trials"), -1),
    (("settings", "rank_multiple"), 0),
    (("settings", "budget", "flops"), -1),
]


@pytest.fixture
def copied(small_run, tmp_path):
    return shutil.copytree(small_run, tmp_path / "run")


@pytest.mark.parametrize(("place", "value"), OFF, ids=lambda value: str(value)[-30:])
def test_a_number_that_cannot_be_is_refused(copied, place, value):
    document = json.loads((copied / "run.json").read_text())
    part = document
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (copied / "run.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"run\.json is damaged: ") as caught:
        RunFolder(copied).read()
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("name", ["run.json", "study.log", "comparison.csv"])
def test_a_pipe_is_not_waited_for(copied, name):
    (copied / name).unlink(missing_ok=True)
    os.mkfifo(copied / name)
    message = r"must be a file, but is something else|must be the journal"
    read = Rows if name == "comparison.csv" else lambda path, _: RunFolder(path.parent).storage()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(copied / name, "fingerprint")


@pytest.mark.parametrize(
    "text",
    [
        "chain:" + ",".join(["1x1"] * 1000) + "@" + ",".join(["1"] * 999),
        "chain:" + "x".join(["1"] * 1000),
        f"chain:{2**40}x1,1x{2**40}@1",
        f"chain:{10**30}x1,1x{10**30}@{10**30}",
        "9" * 30 + "*chain:1x1",
        "x" * 10**6,
        "9" * 10**5 + ":1",
        "cp:" + "9" * 10**5,
    ],
    ids=lambda text: text[:20],
)
def test_a_structure_has_bounds(text):
    with pytest.raises(ValueError, match=r"must|a structure reads") as caught:
        Structure.parse(text)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    "give",
    [
        lambda: Budget(flops=10**400),
        lambda: Budget(params=2**63),
        lambda: InputSpec.parse("1x3x" + "9" * 5000),
        lambda: InputSpec.parse("1x3x99999999999x9"),
        lambda: InputSpec.parse("x" * 10**6),
        lambda: InputSpec.parse("ids:1x3:int64:" + "9" * 5000),
        lambda: RunFolder(""),
        lambda: RunFolder(" "),
        lambda: patterns_of("include", ["[" * 10**6], {}),
        lambda: load_model("x" * 10**6),
        *(
            lambda given=given: request_of(
                nn.Linear(3, 3), torch.zeros(1, 3), budget=Budget(flops=0.5), **given
            )
            for given in (
                {"max_sequence_length": 40},
                {"n_trials": 10**30},
                {"rank_multiple": 10**30},
                {"seed": 10**30},
                {"families": ["chain", "chain"]},
            )
        ),
    ],
)
def test_what_is_given_has_bounds(give):
    with pytest.raises(ValueError, match=r"must|reads") as caught:
        give()
    assert len(str(caught.value)) < 700


def test_a_long_error_is_cut_at_the_command_line(command_line):
    code, _, err = command_line("front", "x" * 10**4)
    assert (code, len(err.splitlines())) == (2, 1)
    assert len(err) < 1400
