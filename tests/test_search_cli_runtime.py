"""Commands on a run folder of several runtimes: each is shown on the clock that is named."""

import io
import json
import math
import re
import sys
import warnings
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pandas as pd
import pytest

import search
from search import Budget
from search.clock.times import NetworkTime
from search.report.rivals import comparison_of, read_rivals
from sekron import CannotRun
from tests.test_search_runtimes import both, folder, made, timed_in, worlds
from tests.test_search_whole_network_within_latency import Surprising, rewrite

__all__ = ["both", "folder", "made", "worlds"]  # fixtures are found by their names

RUNTIMES = ("torch", "onnxruntime")


@pytest.fixture
def on(command_line, folder, monkeypatch, small_network):
    """Run a command on the folder."""
    module = ModuleType("deployed")
    module.network = small_network
    monkeypatch.setitem(sys.modules, "deployed", module)
    return lambda command, *arguments: command_line(command, folder, *arguments)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_front_is_that_of_the_runtime(on, both, runtime):
    expected = both[1].pareto_front(runtime=runtime).drop(columns="plan")
    code, out, err = on("front", "--csv", "--runtime", runtime)
    assert (code, err) == (0, "")
    pd.testing.assert_frame_equal(pd.read_csv(io.StringIO(out)), expected)
    assert json.loads(on("front", "--json", "--runtime", runtime)[1])["runtime"] == runtime
    # The search that was last decides where none is named.
    same = on("front", "--csv")[1] == out
    assert same == (runtime == "onnxruntime")


def applied(on, tmp_path, *arguments):
    """Digest of the plan that `apply` writes."""
    file = tmp_path / "small.safetensors"
    code, out, err = on(
        "apply", "--model", "deployed:network", "--output", file, "--json", *arguments
    )
    assert (code, err) == (0, "")
    return json.loads(out)["plan"]


def test_the_plan_is_that_of_the_runtime(on, both, tmp_path):
    eager, other = both
    assert eager.best != other.best
    assert applied(on, tmp_path) == other.best.digest
    assert applied(on, tmp_path, "--runtime", "onnxruntime") == other.best.digest
    assert applied(on, tmp_path, "--runtime", "torch") == eager.best.digest
    budget = Budget(latency=0.8)
    for runtime in RUNTIMES:
        plan = applied(on, tmp_path, "--latency", "80%", "--runtime", runtime)
        assert plan == other.plan(budget, runtime).digest
        named = other.pareto_front(runtime=runtime)["plan"].iloc[0].digest
        assert applied(on, tmp_path, "--plan", named, "--runtime", runtime) == named


@pytest.fixture
def surprised(folder, small_network, small_input):
    """A search in the folder whose network is not the one that the estimate is for."""
    world = Surprising(search.profile(small_network, small_input, ["3", "6"]))
    result = timed_in(
        "openvino", world, small_network, small_input, folder, budget=Budget(flops=0.65)
    )
    assert result.plan(result.budget) != result.best
    return result


@pytest.mark.parametrize("named", [(), ("--flops", "65%")], ids=["unnamed", "named"])
def test_the_budget_of_the_search_has_the_plan_that_was_measured(on, surprised, tmp_path, named):
    assert applied(on, tmp_path, *named) == surprised.best.digest
    of_another = surprised.plan(Budget(flops=0.66)).digest
    assert applied(on, tmp_path, "--flops", "66%") == of_another != surprised.best.digest


def test_a_budget_that_was_not_searched_there_is_solved_there(
    on, both, worlds, folder, small_network, small_input, tmp_path
):
    """The last search has asked ONNX Runtime alone; torch is not given its plan."""
    timed_in("onnxruntime", worlds, small_network, small_input, folder, budget=Budget(latency=0.85))
    result = search.load(folder)
    plan = result.plan(Budget(latency=0.85), "torch")
    assert applied(on, tmp_path, "--runtime", "torch") == plan.digest != result.best.digest


@pytest.mark.parametrize("command", ["front", "apply", "report", "compare"])
def test_a_runtime_that_was_not_timed_is_one_line(on, tmp_path, command):
    more = [] if command in ("front", "report") else ["--model", "deployed:network"]
    more += ["--output", tmp_path / "x.safetensors"] if command == "apply" else []
    code, out, err = on(command, *more, "--runtime", "openvino")
    assert (code, out) == (2, "")
    assert "one that was timed in this run folder: onnxruntime, torch, got 'openvino'" in err
    assert err.count("\n") == 1


def test_a_report_is_of_the_runtime(on, both, folder):
    """So are the commands in it, and rivals that another clock has timed are not shown."""
    eager, _ = both
    assert on("report", "--runtime", "torch")[0] == 0
    page = (folder / "report.html").read_text()
    assert f"--plan {eager.best.digest[:12]} --runtime torch" in page
    assert f".in_runtime('torch').by_digest('{eager.best.digest[:12]}')" in page
    assert on("report")[0] == 0
    assert "in_runtime" not in (folder / "report.html").read_text()


def test_a_page_tells_what_was_timed_from_what_is_sure(on, both, folder, monkeypatch):
    for word in ("times as fast", "timed, but not surely"):
        assert on("report")[0] == 0
        assert word in re.sub("<[^>]*>", "", (folder / "report.html").read_text())
        monkeypatch.setattr(NetworkTime, "is_sure", property(lambda _: False))


def here_in(monkeypatch, result, **changes):
    """Let this process be in the settings of a search, but for the changes."""

    def setting_of(network, arguments, runtime):
        return replace(result.in_runtime(runtime).timetable.setting, **changes)

    monkeypatch.setattr("search.cli.results.setting_of", setting_of)


def set_input(document):
    spec = {"name": "", "shape": [2, 3, 13, 11], "dtype": "float32", "high": None}
    document["source"]["inputs"] = [spec]


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (CannotRun("it is odd."), "it is odd."),
        (RuntimeError("memory is full"), "RuntimeError: memory is full."),
    ],
    ids=["refused", "failed"],
)
def test_rivals_of_two_clocks_do_not_mix(on, both, folder, monkeypatch, error, why):
    rewrite(folder / "run.json", set_input)
    here_in(monkeypatch, both[1])
    asked = []

    def race(dense, small, example, runtime):
        asked.append(runtime)
        if len(asked) == 2:
            raise KeyboardInterrupt
        raise error

    monkeypatch.setattr("search.cli.rivals_clock.compare", race)
    for named, runtime in (((), "onnxruntime"), (("--runtime", "torch"), "torch")):
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # of the interruption
            _, _, err = on("compare", "--model", "deployed:network", "--flops", "80%", *named)
        assert asked == 2 * [runtime]
        assert f"networks have no time: 1, the first since {why}" in err
        asked.clear()
    comparison_of(folder, "torch").write_text("not a comparison")
    assert read_rivals(folder, "onnxruntime")["latency_ms"].isna().tolist() == [True]
    with pytest.raises(ValueError, match=r"comparison\.csv must be a comparison"):
        read_rivals(folder, "torch")


@pytest.mark.parametrize("named", [(), ("--flops", "65%")], ids=["unnamed", "named"])
def test_at_the_budget_of_the_search_rivals_meet_the_plan_that_was_measured(
    on, surprised, folder, monkeypatch, named
):
    rewrite(folder / "run.json", set_input)
    met = []

    def compare(network, example, budget, *, plans, **_):
        met.append((budget, plans["sekron"](budget)))
        raise ValueError("enough")

    monkeypatch.setattr("baselines.compare", compare)
    other = Budget(flops=0.66)
    for options in (named, ("--flops", "66%")):
        on("compare", "--model", "deployed:network", *options)
    assert met == [(surprised.budget, surprised.best), (other, surprised.plan(other))]


def test_rivals_have_the_time_that_plans_have_and_none_in_another_setting(
    on, both, folder, monkeypatch
):
    """A race of its own has another time of the dense network than the search."""
    rewrite(folder / "run.json", set_input)
    timetable, clocks = both[1].timetable, []
    dense = SimpleNamespace(median_ms=77.0)
    raced = [
        SimpleNamespace(second=dense, ratio=1.25, low=low, high=high)
        for low, high in ((1.24, 1.26), (1.1, 1.4))
    ]
    monkeypatch.setattr("search.cli.rivals_clock.compare", lambda *_, **__: raced.pop(0))

    def compare(network, example, budget, *, clock, **_):
        clocks.append(clock)
        raise ValueError("enough")

    monkeypatch.setattr("baselines.compare", compare)
    here_in(monkeypatch, both[1])
    ask = ("compare", "--model", "deployed:network", "--flops", "80%")
    assert "have no time" not in on(*ask)[2]
    here_in(monkeypatch, both[1], threads=13)
    assert "timed in another setting (threads" in on(*ask)[2]
    assert clocks[1] is None
    assert clocks[0](None, None) == (timetable.network_ms / 1.25, 1.25)
    unsure = clocks[0](None, None)
    assert unsure == pytest.approx((timetable.network_ms / 1.25, math.nan), nan_ok=True)
    assert str(timetable.setting) in clocks[0].setting
