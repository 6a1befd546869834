"""A runtime as the clock of a search: what it times, and that two of them never mix."""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import search
import sekron
from search import Budget
from search.clock.candidate_times import forms
from search.clock.race import EAGER, processor_name
from search.clock.setting import setting_of
from search.clock.sides import LEAST
from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import TimeLimit
from search.clock.times import Effort
from search.clock.timetable_record import to_json
from search.folder.run_folder import RunFolder
from search.pipeline.elsewhere import time_elsewhere
from sekron.export.runtimes import RUNTIMES
from sekron.forward.inputs import Arguments
from sekron.layers.operations import DEFAULT_FORM, Form
from sekron.network.plan import Plan
from sekron.structures.structure import Structure
from tests.test_search_whole_network_within_latency import World, lottery, rewrite, run
from tests.trials import trials_in
from tests.unsealed import unsealed

EXPORTED = ("onnxruntime", "openvino")
SPLIT = Structure.parse("sekron:3x2x3x1,4x4x1x3@6")
"""Of layer 3 of the small network."""


class Salted(World):
    """A world in which another runtime likes other structures and forms."""

    def __init__(self, profile, runtime):
        super().__init__(profile)
        self.runtime = runtime

    def ratio(self, layer, structure, form):
        point = f"{self.runtime} {layer.name} {structure.family} {structure.shapes} {form}"
        return (0.2 + 1.6 * lottery(point)) * super().ratio(layer, structure, form)


class Worlds:
    """A world for each runtime."""

    def __init__(self, profile):
        self.of = {EAGER: World(profile), **{r: Salted(profile, r) for r in EXPORTED}}
        self.now = self.of[EAGER].now

    def stopwatch(self, model, example, profile, runtime):
        return self.of[runtime].stopwatch(model, example, profile, runtime)


@pytest.fixture
def fake_race(monkeypatch):
    """Run everything once, and let the sides of every race take these seconds."""
    races = []

    def fake(seconds):
        def race(runs, *_, **__):
            outputs = [side() for side in runs]
            races.append(outputs)
            times = seconds(len(runs)) if callable(seconds) else seconds
            return np.tile(np.array(times)[:, None], (1, 10))

        for module in ("stopwatch", "race"):
            monkeypatch.setattr(f"search.clock.{module}.race", race)
        return races

    return fake


def timed_in(runtime, worlds, network, example, folder, **others):
    return run(
        worlds,
        network,
        example,
        run=folder,
        runtime=runtime,
        include=["3", "6"],
        n_network_trials=4,
        **others,
    )


@pytest.fixture(scope="module")
def made(small_network, small_input, tmp_path_factory):
    """Searches for torch, then for ONNX Runtime, in one folder: do not write.

    Their worlds, the folder, what the first search had written to it, and the results.
    """
    worlds = Worlds(search.profile(small_network, small_input, ["3", "6"]))
    folder = tmp_path_factory.mktemp("timed")
    eager = timed_in("torch", worlds, small_network, small_input, folder)
    written = (folder / "latency.json").read_text()
    other = timed_in("onnxruntime", worlds, small_network, small_input, folder)
    return worlds, folder, written, eager, other


@pytest.fixture
def both(made):
    return made[3:]


@pytest.fixture
def worlds(made):
    return made[0]


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the folder, to go on with."""
    for file in filter(Path.is_file, made[1].iterdir()):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize("runtime", EXPORTED)
def test_what_is_raced_computes_what_the_layers_do(runtime, small_network, small_input, fake_race):
    races = fake_race(lambda n: [1.0] * n)
    stopwatch = Stopwatch(
        small_network, small_input, search.profile(small_network, small_input), runtime
    )
    layer = stopwatch.layers[0]
    assert layer.name == "3"
    forms = [Form(), Form((1, 0), True)]
    stopwatch.candidate_ratios(layer, [(SPLIT, form) for form in forms], 1.0)
    dense, *candidates, call = races[-1]
    assert dense[0].shape == (2, 12, 7, 6)
    assert [side[0].shape for side in candidates] == 2 * [dense[0].shape]
    assert call[0].shape == (1,)  # of the input
    plan = Plan({"3": SPLIT}, {"3": forms[1]})
    small = stopwatch.compressed(plan)
    stopwatch.network_ratio(small, 1.0)
    ours, theirs = races[-1]
    with torch.no_grad():
        torch.testing.assert_close(ours[0], small(small_input), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(theirs[0], small_network(small_input), atol=1e-4, rtol=1e-4)


def test_a_layer_takes_what_its_call_takes_beyond_the_way_into_the_runtime(
    small_network, small_input, fake_race
):
    measured = search.profile(small_network, small_input)
    stopwatch = Stopwatch(small_network, small_input, measured, "onnxruntime")
    fake_race([0.5, 0.3, 0.105, 0.1])
    ratios = stopwatch.candidate_ratios(stopwatch.layers[0], [(SPLIT, Form())] * 2, 1.0)
    assert [ratio for _, ratio, _ in ratios] == pytest.approx([0.2 / 0.4, LEAST * 0.105 / 0.4])
    fake_race(lambda n: [[8.0], [0.5, 0.1]][n - 1])
    times = stopwatch.start(1.0)
    assert times.network_ms == 8000.0
    assert [layer.dense_ms for layer in times.layers.values()] == pytest.approx(
        [400.0] * len(measured.searched)
    )
    assert times.fixed_ms == pytest.approx(8000.0 - 2 * 400.0 * len(measured.searched))
    fake_race(lambda n: [[0.8], [0.5, 0.1]][n - 1])  # alone they take more than all
    assert stopwatch.start(1.0).searched_ms == pytest.approx(800.0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_that_wants_channels_in_blocks_is_given_no_products(
    runtime, small_network, small_input
):
    layer = search.profile(small_network, small_input).searched[0]
    tried = forms(layer, Structure.parse("sekron:3x2x1x1,4x4x3x3@6"), runtime)
    in_blocks = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")
    assert any(form.matmul for form in tried) == (runtime not in in_blocks)
    assert DEFAULT_FORM in tried


def test_in_torch_itself_a_layer_is_timed_as_before(small_network, small_input, fake_race):
    races = fake_race([0.4, 0.1])
    measured = search.profile(small_network, small_input)
    stopwatch = Stopwatch(small_network, small_input, measured)
    assert stopwatch.candidate_ratios(stopwatch.layers[0], [(SPLIT, Form())], 1.0) == [
        (0.25, 0.25, 0.25)
    ]
    assert len(races[-1]) == 2
    assert stopwatch.sides.layer_seconds == stopwatch.sides.network_seconds == 0.0


def test_layers_alike_in_shape_are_made_ready_once(small_input, monkeypatch, fake_race):
    from sekron.export.runtimes import make_ready  # noqa: PLC0415  replaced below

    fake_race(lambda n: [1.0] * n)
    made = []

    def counted(name, module, arguments):
        made.append(module)
        return make_ready(name, module, arguments)

    monkeypatch.setattr("search.clock.sides.make_ready", counted)
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), *(nn.Conv2d(6, 6, 3, padding=1) for _ in range(3))
    ).eval()
    measured = search.profile(network, small_input)
    stopwatch = Stopwatch(network, small_input, measured, "onnxruntime")
    times = stopwatch.start(1.0)
    assert len(times.layers) == 3
    assert len(made) == 2  # the layer, and the call of nothing
    halved = Structure.parse("chain:6x1x3x1,1x6x1x3@4")
    for layer in stopwatch.layers:
        stopwatch.candidate_ratios(layer, [(halved, Form())], 1.0)
    assert len(made) == 2 + 3
    small = stopwatch.compressed(Plan({"1": halved}))
    stopwatch.network_ratio(small, 1.0)
    ready = stopwatch.sides.network(small)
    stopwatch.network_ratio(small, 1.0)
    assert stopwatch.sides.network(small) is ready


@pytest.mark.parametrize("runtime", EXPORTED)
def test_a_search_for_a_runtime_has_a_timetable_of_it(
    runtime, small_network, small_input, fake_race, tmp_path
):
    fake_race(lambda n: [0.5, 1.0] if n == 2 else np.linspace(1.0, 0.5, n))
    found = search.run(
        small_network,
        small_input,
        budget=Budget(flops=0.8),
        n_trials=0,
        max_sequence_length=2,
        families=["chain"],
        measure_seconds=20.0,
        include=["6"],
        runtime=runtime,
        progress=False,
        run=tmp_path,
    )
    setting = found.timetable.setting
    assert (setting.runtime, setting.runtime_version) == (
        runtime,
        sys.modules[runtime].__version__,
    )
    assert [path.name for path in tmp_path.glob("latency*")] == [f"latency-{runtime}.json"]
    loaded = search.load(tmp_path)
    assert loaded.best == found.best
    assert loaded.pareto_front().equals(found.pareto_front())
    assert loaded.runtimes().equals(found.runtimes())
    assert loaded.runtimes()["runtime"].tolist() == [runtime]


def test_two_runtimes_in_a_folder_do_not_mix(made, small_network, small_input, folder):
    worlds, _, written, eager, other = made
    for result, runtime in ((eager, "torch"), (other, "onnxruntime")):
        world = worlds.of[runtime]
        assert result.timetable.setting.runtime == runtime
        assert world.of_plan(result.profile, result.best) <= 0.7
        assert result.timetable.of(result.best).ratio == pytest.approx(
            world.of_plan(result.profile, result.best)
        )
    alone = timed_in("onnxruntime", worlds, small_network, small_input, folder / "alone")
    assert alone.best == other.best != eager.best
    # All that was added to the first's times is that of the other's plan.
    kept, now = unsealed(written), unsealed((folder / "latency.json").read_text())
    networks = {**kept["networks"], other.best.digest: now["networks"][other.best.digest]}
    assert now == {**kept, "networks": networks}
    before = [world.measured for world in worlds.of.values()]
    again = timed_in("onnxruntime", worlds, small_network, small_input, folder)
    assert again.best == other.best
    assert before == [world.measured for world in worlds.of.values()]


def test_fronts_and_plans_are_those_of_the_runtime_that_is_named(both, folder):
    eager, other = both
    for result in (other, search.load(folder)):
        assert result.pareto_front(runtime="onnxruntime").equals(other.pareto_front())
        assert result.pareto_front().equals(other.pareto_front())
        there = result.pareto_front(runtime="torch").drop(columns="predicted_ms")
        # Of one more network the first search has not known.
        assert there.equals(eager.pareto_front().drop(columns="predicted_ms"))
        budget = Budget(latency=0.8)
        assert result.plan(budget, runtime="onnxruntime") == other.plan(budget)
        assert result.plan(budget) == other.plan(budget) != result.plan(budget, runtime="torch")
        within = result.pareto_front(Budget(latency=0.7), runtime="torch")
        assert any(plan == eager.best for plan in within["plan"])
    assert "onnxruntime" not in eager.beside


def test_a_plan_is_told_in_every_runtime_that_was_timed(worlds, both, folder):
    eager, other = both
    frame = other.runtimes().set_index("runtime")
    assert frame.index.tolist() == ["onnxruntime", "torch"]
    for runtime, row in frame.iterrows():
        ratio = worlds.of[runtime].of_plan(other.profile, other.best)
        assert row["latency_ms"] == pytest.approx(ratio * row["dense_ms"])
        assert row["speedup"] == pytest.approx(1 / ratio)
        assert row["runtime_version"]
    assert search.load(folder).runtimes().equals(other.runtimes())
    times = [other.timetable, *other.beside.values()]
    table = other.tables["6"]
    points = [p for p in table.points if all(t.point("6", p) for t in times)]
    rows = [row for row, index in enumerate(table.point) if table.points[index] in points]
    plans = [Plan({"6": table.structure(row)}) for row in rows]
    untimed = next(p for p in plans if not any(p.digest in t.networks for t in times))
    unknown = other.runtimes(untimed)
    assert unknown["latency_ms"].isna().all()
    assert (unknown["predicted_ms"] > 0).all()
    assert eager.runtimes()["runtime"].tolist() == ["torch"]


def test_a_runtime_that_was_not_timed_is_named(both, small_run):
    _, other = both
    for ask in (other.pareto_front, lambda runtime: other.plan(Budget(flops=0.5), runtime)):
        with pytest.raises(ValueError, match=r"in this run folder: onnxruntime, torch, got 'open"):
            ask(runtime="openvino")
    with pytest.raises(ValueError, match=r"in this run folder: none was, got 'torch'"):
        search.load(small_run).plan(Budget(flops=0.5), "torch")
    assert search.load(small_run).runtimes().empty


def test_trials_of_two_clocks_are_two_studies(both, folder):
    storage = RunFolder(folder).storage()
    assert len([name for name in trials_in(storage) if "/networks/" in name]) == 2


def test_times_of_another_version_are_measured_anew(worlds, small_network, small_input, folder):
    path = folder / "latency-onnxruntime.json"
    here = json.loads(path.read_text())["setting"]["runtime_version"]
    rewrite(path, lambda d: d["setting"].update(runtime_version="0.9"))
    starts = worlds.of["onnxruntime"].starts
    with pytest.warns(
        UserWarning, match=rf"another setting \(runtime_version 0\.9 there, {here} here\); they are"
    ):
        timed_in("onnxruntime", worlds, small_network, small_input, folder)
    assert worlds.of["onnxruntime"].starts == starts + 1
    assert json.loads(path.read_text())["setting"]["runtime_version"] == here


@pytest.mark.parametrize("difference", ["version", "gone"])
def test_no_plan_is_timed_in_a_runtime_of_another_setting(
    worlds, small_network, small_input, folder, difference, monkeypatch
):
    path = folder / "latency-onnxruntime.json"
    if difference == "version":
        rewrite(path, lambda d: d["setting"].update(runtime_version="0.9"))
    else:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    written, measured = path.read_text(), worlds.of["onnxruntime"].measured
    rewrite(folder / "latency.json", lambda d: d["setting"].update(threads=99))
    with pytest.warns(UserWarning, match="threads 99 there"):
        timed_in("torch", worlds, small_network, small_input, folder)
    assert path.read_text() == written
    assert worlds.of["onnxruntime"].measured == measured


@pytest.mark.parametrize(
    "error", [RuntimeError("no memory\nat all"), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("failing", ["stopwatch", "setting", "network_ratio"])
def test_what_fails_in_another_runtime_costs_only_the_time_there(
    worlds, both, small_network, small_input, folder, failing, error, monkeypatch
):
    works, path = worlds.stopwatch, folder / "latency-onnxruntime.json"

    def fails(*_):
        raise error

    def stopwatch(model, example, profile, runtime):
        if (runtime, failing) == ("onnxruntime", "stopwatch"):
            fails()
        made = works(model, example, profile, runtime)
        if runtime == "onnxruntime":
            setattr(made, failing, fails)
        return made

    monkeypatch.setattr(worlds, "stopwatch", stopwatch)
    arguments = "torch", worlds, small_network, small_input, folder
    budget, written = Budget(params=0.6, latency=0.83), path.read_text()
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            timed_in(*arguments, budget=budget)
        return
    why = r"^the plan has no time in onnxruntime: RuntimeError: no memory\.$"
    with pytest.warns(UserWarning, match=why) as said:
        found = timed_in(*arguments, budget=budget)
    assert len(said) == 1
    assert path.read_text() == written
    assert search.load(folder).best == found.best != both[0].best


@pytest.mark.parametrize("ready_seconds", [0.0, 3.0])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.99, 1.01])
def test_a_runtime_is_left_out_for_which_the_time_is_known_not_to_suffice(
    worlds, both, small_network, small_input, ready_seconds, share
):
    eager, other = both
    there = replace(other.timetable, networks={}, ready_seconds=ready_seconds)
    least = 2 * 10 * there.network_ms / 1e3 + 2 * ready_seconds
    made, kept, said = [], [], []

    def stopwatch_in(runtime):
        made.append(worlds.stopwatch(small_network, small_input, other.profile, runtime))
        return made[-1]

    time_elsewhere(
        eager.best,
        eager.choices,
        {"onnxruntime": there},
        stopwatch_in,
        TimeLimit(share * least, lambda: 0.0),
        1.0,
        kept.append,
        lambda _: None,
        said.append,
    )
    suffices = share > 1
    assert (len(made), [table.of(eager.best).runs for table in kept]) == (
        (1, [True]) if suffices else (0, [])
    )
    assert [line.split(":")[0] for line in said] == (
        [] if suffices else ["the plan has no time in onnxruntime"]
    )


def test_a_file_of_another_runtime_is_refused(folder):
    text = (folder / "latency.json").read_text()
    (folder / "latency-onnxruntime.json").write_text(text)
    with pytest.raises(ValueError, match=r"must hold the latencies of onnxruntime, .* 'torch'\.$"):
        search.load(folder)


@pytest.mark.parametrize("runtime", ["../secret", "tensorrt", ""])
def test_a_record_names_no_other_file(folder, runtime):
    rewrite(folder / "run.json", lambda d: d["settings"].update(runtime=runtime))
    with pytest.raises(ValueError, match=r"`runtime` must be one of torch, "):
        search.load(folder)


def test_what_torch_times_is_recorded_as_before(both):
    eager, other = both
    assert "runtime" not in to_json(eager.timetable)
    choices, budget = eager.choices, Budget(latency=0.7)
    assert choices.question(budget) == choices.retimed(None).question(budget, "torch")
    assert choices.question(budget) != other.choices.question(budget)
    unnamed = replace(eager.timetable.setting, runtime="torch", runtime_version="")
    assert unnamed == eager.timetable.setting


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

    def forward(self, image):
        y = self.body(image)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize("runtime", EXPORTED)
def test_a_network_that_a_runtime_does_not_take_is_refused_first(runtime, small_input, tmp_path):
    with pytest.raises(sekron.CannotRun, match=rf"^{runtime} must take the network, .* in forward"):
        search.run(
            Branching().eval(),
            small_input,
            budget=Budget(flops=0.5),
            runtime=runtime,
            run=tmp_path / "run",
            progress=False,
        )
    assert not (tmp_path / "run").exists()


class Untouchable(nn.Module):
    def forward(self, *_):
        raise AssertionError("nothing may be computed")


@pytest.mark.parametrize(
    ("runtime", "error", "message"),
    [
        ("tensorrt", ValueError, r"`runtime` must be one of torch, .* got 'tensorrt'\.$"),
        ("onnxruntime", ImportError, r"onnxruntime must be .* 'sekron\[onnxruntime\]'\.$"),
        ("onnxruntime-int8", ImportError, r"onnxruntime must be .* 'sekron\[onnxruntime\]'\.$"),
        ("openvino", ImportError, r"openvino must be .* 'sekron\[openvino\]'\.$"),
        ("openvino-int8", ImportError, r"openvino must be .* 'sekron\[openvino\]'\.$"),
        ("onnxruntime-cuda", ImportError, r"onnxruntime must be .* 'sekron\[onnxruntime\]'\.$"),
    ],
)
def test_a_runtime_that_is_not_there(monkeypatch, small_input, runtime, error, message):
    for name in EXPORTED:
        monkeypatch.setitem(sys.modules, name, None)
    network = Untouchable()
    asks = [
        lambda: search.run(network, small_input, budget=Budget(flops=0.5), runtime=runtime),
        lambda: search.latency(network, small_input, runtime=runtime),
        lambda: search.compare(network, network, small_input, runtime=runtime),
    ]
    for ask in asks:
        with pytest.raises(error, match=message):
            ask()


def test_the_setting_of_a_runtime_on_a_gpu_names_the_gpu(small_network, small_input, monkeypatch):
    monkeypatch.setattr("search.clock.setting.version_of", lambda _: "1.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    measured = search.profile(small_network, small_input)
    for runtime, device in (("onnxruntime-cuda", "a GPU, None"), ("onnxruntime", processor_name())):
        setting = Stopwatch(small_network, small_input, measured, runtime).setting()
        assert (setting.device, setting.runtime_version) == (device, "1.0")


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("cpu", processor_name()),
        ("meta", processor_name()),
        ("cuda:1", "a GPU, cuda:1"),
        ("mps", f"{processor_name()}, mps"),
        ("xpu:0", f"{processor_name()}, xpu"),
    ],
)
@pytest.mark.parametrize("is_there", [(True, True), (True, False), (False, True)], ids=str)
def test_the_setting_names_where_weights_or_inputs_are(place, expected, is_there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU, {device}")
    with FakeTensorMode():  # of devices that this machine need not have
        weight, x = (torch.empty(4, 3, device=place if there else "cpu") for there in is_there)
        network = nn.Linear(3, 4, bias=False, device="meta")
        network.weight = nn.Parameter(weight)
        assert setting_of(network, Arguments((x,)), EAGER).device == expected


def test_the_setting_names_all_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"GPU {gpu.index % 2}")
    network = nn.Module()
    with FakeTensorMode():
        for i in (3, 2, 1):
            network.register_parameter(f"at_{i}", nn.Parameter(torch.empty(3, device=f"cuda:{i}")))
        x = torch.empty(2, 3, device="cuda:1")
        assert setting_of(network, Arguments((x,)), EAGER).device == "GPU 0, GPU 1, GPU 1"
        del network.at_2
        assert setting_of(network, Arguments((x,)), EAGER).device == "GPU 1, GPU 1"


def test_a_runtime_is_named_for_the_clock(small_network, small_input):
    with pytest.raises(ValueError, match=r"must be positive where a runtime is named, got 0"):
        search.run(
            small_network,
            small_input,
            budget=Budget(flops=0.5),
            runtime="onnxruntime",
            measure_seconds=0,
        )


@pytest.mark.parametrize("runtime", EXPORTED)
def test_networks_are_compared_in_a_runtime(runtime, small_network, small_input, fake_race):
    races = fake_race(lambda n: [4.0, 2.0][:n])
    small = Plan({"3": SPLIT}).apply(small_network)
    found = search.compare(small_network, small, small_input, runtime=runtime)
    assert (found.ratio, found.second.median_ms) == (2.0, 2000.0)
    with torch.no_grad():
        for network, outputs in zip((small_network, small), races[-1], strict=True):
            expected = network(small_input)
            torch.testing.assert_close(outputs[0], expected, atol=1e-4, rtol=1e-4)
    assert search.latency(small, small_input, runtime=runtime).median_ms == 4000.0


def test_the_command_line_names_the_runtime(command_line, monkeypatch, tmp_path):
    code, out, _ = command_line("search", "--help")
    assert code == 0
    assert "onnxruntime" in out
    asked = ("search", "torch.nn:Identity", "--input", "1x3x8x8", "--run", tmp_path / "r")
    code, _, err = command_line(*asked, "--flops", "50%", "--runtime", "tensorrt")
    assert code == 2
    assert "`runtime` must be one of torch, torch.compile, onnxruntime, onnxr" in err
    assert len(err.splitlines()) == 1

    def search_network(request, *_, **__):
        raise ValueError(f"asked for {request.settings.runtime}")

    monkeypatch.setattr("search.cli.search.search_network", search_network)
    assert "asked for torch" in command_line(*asked, "--flops", "50%")[2]
    assert "asked for openvino" in command_line(*asked, "--runtime", "openvino")[2]


def test_a_result_on_another_clock_knows_the_clock_of_the_search(both):
    _, other = both
    there = other.in_runtime("torch")
    assert there.runtimes()["runtime"].tolist() == ["torch", "onnxruntime"]
    back = there.in_runtime("onnxruntime")
    assert back.runtimes().equals(other.runtimes())
    assert back.best == other.best


def test_the_dense_network_may_be_the_best_on_another_clock(both):
    _, other = both
    eager = other.beside["torch"]
    question = other.choices.retimed(eager).question(other.budget.limits)
    crowned = eager.with_winner(question, Plan({}), Effort(math.inf, 0))
    there = replace(other, beside={"torch": crowned}).in_runtime("torch")
    assert there.best == Plan({}) != other.best


def test_a_least_score_is_none_of_another_clocks_winner(both):
    """What held the other limits there may never have been scored."""
    _, other = both
    eager, budget = other.beside["torch"], replace(other.budget, min_score=0.9)
    question = other.choices.retimed(eager).question(budget.limits)
    crowned = eager.with_winner(question, Plan({}), Effort(math.inf, 0))
    there = replace(other, budget=budget, beside={"torch": crowned}).in_runtime("torch")
    assert dict(there.best) == dict(other.best) != {}


def test_a_busy_moment_casts_no_doubt_on_what_was_measured_in_quiet(
    worlds, both, small_network, small_input, folder, monkeypatch
):
    quiet, other = worlds.stopwatch, worlds.of["onnxruntime"]

    def stopwatch(model, example, profile, runtime):
        made = quiet(model, example, profile, runtime)
        if runtime == "onnxruntime":
            queue = made.run_queue
            queue.waited, queue.others, queue.passed = 0.4, 1.0, 1.0
        return made

    arguments = small_network, small_input, folder
    with monkeypatch.context() as busy:
        busy.setattr(worlds, "stopwatch", stopwatch)
        with pytest.warns(UserWarning, match="the plan has no time in onnxruntime: threads waited"):
            timed_in("torch", worlds, *arguments, budget=Budget(params=0.6, latency=0.83))
    starts = other.starts
    timed_in("onnxruntime", worlds, *arguments)
    assert other.starts == starts
