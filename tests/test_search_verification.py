"""What works for the dense network works for the compressed one; each check finds what fails."""

import copy
import math
import os
import re
import sys

import numpy as np
import pytest
import torch
from torch import distributed, nn

import search
import sekron
from search.verification import verify as module
from search.verification.checks import CHECKS, Check, Outcome
from search.verification.two_processes import gradients_of_two
from sekron import Plan, Structure
from sekron.forward.inputs import as_arguments
from sekron.layers.conv import SeKronConv2d
from tests.pretended_device import DEVICE, PretendedDevice

SLOW = ("torch.compile", "torch.export", "ONNX file", "onnxruntime", "openvino", "two processes")


@pytest.fixture
def pair(small_network):
    plan = Plan(
        {
            "3": Structure.parse("sekron:3x2x3x1,4x4x1x3@6"),
            "6": Structure.parse("chain:12x1x3x1,1x12x1x3@8"),
            "11": Structure.parse("chain:30x1,1x20@9"),
        }
    )
    return plan.apply(small_network), small_network


@pytest.fixture
def only(monkeypatch):
    """Run some of the checks."""
    return lambda *names: monkeypatch.setattr(module, "CHECKS", {n: CHECKS[n] for n in names})


@pytest.mark.slow
def test_all_of_it_works_on_a_network_as_it_should_be(pair, small_input):
    state = [p.clone() for p in pair[0].parameters()]
    pair[0].train()
    findings = search.verify(*pair, small_input, measure_seconds=0.05)
    assert [finding.check for finding in findings] == list(CHECKS)
    for finding in findings:
        assert (finding.status, finding.reason) == ("works", "")
        most = 0.05 if finding.check in {"bfloat16", "autocast"} else 1e-4
        assert finding.difference <= most
        is_timed = finding.check not in {"ONNX file", "two processes"}
        assert (finding.time_over_dense is not None) is is_timed
    assert all(map(torch.equal, state, pair[0].parameters()))
    assert all(m.training for m in pair[0].modules())
    assert all(p.grad is None for p in pair[0].parameters())


def test_without_a_clock_nothing_is_timed(pair, small_input, only, monkeypatch):
    only(*(name for name in CHECKS if name not in SLOW))
    monkeypatch.setattr(module, "race", None)
    findings = search.verify(*pair, small_input, measure_seconds=0)
    assert {finding.status for finding in findings} == {"works"}
    assert all(finding.time_over_dense is None for finding in findings)
    by_name = {finding.check: finding for finding in findings}
    assert by_name["reload"].difference == by_name["deepcopy"].difference == 0.0
    assert 0 < by_name["bfloat16"].difference < 0.05


class Fussy(SeKronConv2d):
    """Does not take what a network in use meets."""

    wrong = ""

    def forward(self, image):
        x = super().forward(image)
        if self.wrong == "bfloat16" and x.dtype == torch.bfloat16:
            raise TypeError("no\nhalves")
        if self.wrong == "other batch" and len(image) > 2:
            return 2 * x
        if self.wrong == "other size" and image.shape[-1] > 20:
            return x * math.nan
        return x

    def __deepcopy__(self, memo):
        if self.wrong == "deepcopy":
            raise RuntimeError("only one")
        copied = SeKronConv2d.__new__(Fussy)
        nn.Module.__init__(copied)
        copied.__dict__.update(self.__dict__)
        return copied


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("bfloat16", r"^test_search_verification.py:\d+ in forward, `raise TypeError.*: no$"),
        ("deepcopy", "^RuntimeError: only one$"),
        ("other batch", "must be within 1.0e-04, but differ by"),
        ("other size", "must be within 1.0e-04, but differ by inf"),
    ],
)
def test_what_fails_is_found_and_stops_nothing(pair, small_input, only, wrong, reason):
    only("other batch", "other size", "bfloat16", "deepcopy", "reload")
    small, dense = pair
    small[6].__class__ = Fussy
    small[6].wrong = wrong
    findings = {f.check: f for f in search.verify(small, dense, small_input, measure_seconds=0)}
    assert findings[wrong].status == "fails"
    assert re.search(reason, findings[wrong].reason)
    assert findings["reload"].status == "works"


def test_what_the_dense_network_does_not_do_is_no_failure(only):
    only("other size", "torch")
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    plan = Plan({"1": Structure.parse("chain:5x1,1x12@2")})
    size, eager = search.verify(
        plan.apply(network), network, torch.randn(1, 3, 2, 2), measure_seconds=0
    )
    assert (size.status, eager.status) == ("skipped", "works")
    assert size.reason.startswith("nor for the dense network: RuntimeError: mat1 and mat2")


class Undefined(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y * math.nan if x.dtype == torch.bfloat16 else y


def test_what_is_nan_for_the_dense_network_too_does_not_work(only):
    only("bfloat16")
    network = Undefined(3, 4)
    (found,) = search.verify(network, network, torch.randn(2, 3), measure_seconds=0)
    assert found.status == "skipped"
    assert found.reason.endswith(
        "its outputs have other shapes or kinds of number there, or are NaN"
    )


class Noisy(nn.Linear):
    def forward(self, x):
        return nn.functional.dropout(super().forward(x))


def test_a_network_that_draws_random_numbers_works_nowhere(only):
    only("torch", "reload", "other batch", "bfloat16", "autocast")
    torch.manual_seed(0)
    network, x = Noisy(30, 40), torch.randn(2, 30)
    for found in search.verify(network, network, x, measure_seconds=0):
        assert found.status == "skipped"
        assert found.dense_difference > 0.5
        assert re.match(
            r"nor for the dense network: its outputs differ by \S+ there; it draws random numbers "
            r"in evaluation: two plain runs differ by \d\.\de",
            found.reason,
        )
    plain = nn.Linear(30, 40)
    (found, *_) = search.verify(network, plain, x, measure_seconds=0)
    assert found.status == "fails"
    assert "; it draws random numbers in evaluation: two plain runs differ by" in found.reason


@pytest.mark.parametrize(
    ("ours", "theirs", "status", "reason"),
    [
        (3.9e-4, 1e-4, "works", ""),
        (4.1e-4, 1e-4, "fails", "the outputs must be within 4.0e-04, but differ by 4.1e-04"),
        (1.1e-3, 9e-4, "fails", "the outputs must be within 1.0e-03, but differ by 1.1e-03"),
        (0.9e-4, 0.8, "works", ""),
        (0.8, 0.8, "skipped", "nor for the dense network: its outputs differ by 8.0e-01 there"),
    ],
)
def test_the_dense_network_excuses_only_so_much(monkeypatch, ours, theirs, status, reason):
    small, dense = nn.Linear(3, 4), nn.Linear(3, 4)
    check = Check(lambda case: Outcome(ours if case.network is small else theirs))
    monkeypatch.setattr(module, "CHECKS", {"odd": check})
    (found,) = search.verify(small, dense, torch.randn(2, 3), measure_seconds=0)
    assert found == module.Finding("odd", status, ours, theirs, reason=reason)


class Tokens(nn.Conv2d):
    shift = 0

    def forward(self, x):
        ids = 50_000 + 0 * super().forward(x).argmax(1)
        is_plain = x.is_contiguous() and x.dtype == torch.float32
        return ids if is_plain else ids + self.shift


class OtherTokens(Tokens):
    """Puts out other numbers of tokens with channels last and in half precision."""

    shift = 5


def test_integers_are_equal_but_in_half_precision(only):
    only("channels last", "bfloat16", "torch")
    dense, x = nn.Conv2d(3, 4, 1), torch.randn(2, 3, 5, 5)
    small = copy.deepcopy(dense)
    for network, layer in ((dense, Tokens), (small, OtherTokens)):
        network.__class__ = layer
    found = search.verify(small, dense, x, measure_seconds=0)
    assert [f.status for f in found] == ["fails", "works", "works"]
    assert found[0].difference == 5
    assert found[1].difference == pytest.approx(1e-4, rel=0.1)


class Tiring(nn.Linear):
    """Runs so many times."""

    rests = 8

    def forward(self, x):
        self.rests -= 1
        if self.rests < 0:
            raise RuntimeError("too much")
        return super().forward(x)


@pytest.mark.parametrize("tired", ["small", "dense"])
def test_what_ends_while_it_is_timed_stops_no_other(monkeypatch, tired):
    small, dense = nn.Linear(3, 4), nn.Linear(3, 4)
    {"small": small, "dense": dense}[tired].__class__ = Tiring
    x = torch.randn(2, 3)
    checks = {
        "timed": Check(lambda case: Outcome(1e-5, lambda: case.network(x))),
        "next": Check(lambda _: Outcome(2e-5)),
    }
    monkeypatch.setattr(module, "CHECKS", checks)
    timed, after = search.verify(small, dense, x, measure_seconds=0.01)
    assert (timed.status, timed.difference, timed.time_over_dense) == ("fails", 1e-5, None)
    assert re.match(r"timed, run after run: test_search_verification.*: too much$", timed.reason)
    assert after == module.Finding("next", "works", 2e-5, 2e-5)


def test_what_is_timed_is_waited_for_on_its_device(only, monkeypatch):
    only("torch")
    awaited, waits = [], []
    monkeypatch.setattr(torch.accelerator, "synchronize", awaited.append)

    def race(runs, *_):
        for run in runs:
            run()
            waits.append(list(awaited))
        return np.ones((2, 7))

    monkeypatch.setattr(module, "race", race)
    small, dense = nn.Linear(3, 4), nn.Linear(3, 4)
    with PretendedDevice() as device:
        device.put([*small.parameters(), *dense.parameters(), x := torch.randn(2, 3)])
        (found,) = search.verify(small, dense, x)
    assert (found.status, found.time_over_dense) == ("works", 1)
    assert waits == [[DEVICE], [DEVICE, DEVICE]]


class Keeping(nn.Sequential):
    """Keeps what it computed last, which `copy.deepcopy` refuses."""

    def forward(self, x):
        self.last = super().forward(x)
        return self.last


def test_a_network_that_deepcopy_refuses_is_checked_all_the_same(only):
    only("torch", "other batch", "channels last", "bfloat16")
    network, x = Keeping(nn.Conv2d(3, 4, 1)), torch.randn(2, 3, 5, 5)
    network.scale = network[0].weight * 2
    findings = search.verify(network, network, x, measure_seconds=0)
    assert {finding.status for finding in findings} == {"works"}


class Ending(nn.Linear):
    """Ends the process where it is trained with others."""

    def forward(self, x):
        if distributed.is_initialized():
            os._exit(3)
        return super().forward(x)


def test_a_process_that_ends_without_a_word_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "odd #1").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "odd #1"))
    with pytest.raises(sekron.CannotRun, match=r"one ended before; a script must .*'__main__'"):
        gradients_of_two(Ending(3, 4), as_arguments(torch.randn(2, 3)))
    assert list(tmp_path.rglob("*")) == [tmp_path / "odd #1"]


def test_a_package_that_is_missing_is_no_failure(pair, small_input, only, monkeypatch):
    only("onnxruntime")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (finding,) = search.verify(*pair, small_input)
    assert finding.status == "skipped"
    assert "pip install 'sekron[onnxruntime]'" in finding.reason


@pytest.mark.slow
def test_without_a_compiler_the_check_is_skipped(pair, small_input, only):
    from torch._inductor import config, utils  # noqa: PLC0415  slow

    only("torch.compile")
    torch._dynamo.reset()
    with config.patch({"cpp.cxx": ("no-such-compiler",)}), utils.fresh_cache():
        (finding,) = search.verify(*pair, small_input)
    assert finding.status == "skipped"
    assert "no-such-compiler" in finding.reason


def test_a_network_that_does_not_run_at_all(pair):
    with pytest.raises(ValueError, match=r"must run on the example input, but on \(1, 4, 9, 9\)"):
        search.verify(*pair, torch.randn(1, 4, 9, 9))
