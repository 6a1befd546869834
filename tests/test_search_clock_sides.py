"""What torch has no memory for has no time there; the search goes on without it."""

import json
import math
from types import SimpleNamespace
from weakref import WeakSet

import numpy as np
import pytest
import torch
from torch import nn

import search
from search import Budget
from search.clock.sides import Sides, is_out_of_memory
from search.clock.stopwatch import Stopwatch
from search.clock.time_limit import TimeLimit
from search.clock.timetable_record import from_json, to_json
from search.whole_network.plan_clock import PlanClock
from sekron import CannotRun, Plan
from sekron.export.runtimes import Ready
from sekron.forward.inputs import Arguments
from sekron.layers.conv import SeKronConv
from sekron.layers.operations import Form
from sekron.network.surgery import structures_of
from sekron.structures.structure import Structure
from tests.test_search_runtimes import SPLIT, fake_race

__all__ = ["fake_race"]  # a fixture is found by its name

OTHER = Structure.parse("sekron:4x2x3x1,3x4x1x3@6")
MORE_THAN_THERE_IS = 10**15


@pytest.fixture
def greedy(monkeypatch):
    """Let convolutions of a structure take more memory than there is, for two images or more."""

    def let(is_greedy):
        forward = SeKronConv.forward

        def taking(layer, x):
            if len(x) > 1 and is_greedy(layer.structure):
                torch.empty(MORE_THAN_THERE_IS)
            return forward(layer, x)

        monkeypatch.setattr(SeKronConv, "forward", taking)

    return let


@pytest.fixture
def stopwatch(small_network, small_input):
    return Stopwatch(small_network, small_input, search.profile(small_network, small_input))


def test_a_candidate_that_memory_is_too_full_for_leaves_the_others(stopwatch, greedy, fake_race):
    fake_race(lambda n: np.arange(n, 0.0, -1.0))  # the last of what runs is the fastest
    greedy(lambda structure: structure == OTHER)
    sides = [(SPLIT, Form()), (OTHER, Form()), (SPLIT, Form((1, 0)))]
    ratios = [ratio for _, ratio, _ in stopwatch.candidate_ratios(stopwatch.layers[0], sides, 1.0)]
    assert ratios == pytest.approx([2 / 3, math.inf, 1 / 3])
    assert list(stopwatch.refused) == [f"{OTHER} in layer '3'"]
    assert "can't allocate memory" in stopwatch.refused[f"{OTHER} in layer '3'"]


def test_a_network_that_memory_is_too_full_for_is_refused(stopwatch, greedy, fake_race):
    races = fake_race([0.5, 1.0])
    small = stopwatch.compressed(Plan({"3": SPLIT})).train()
    in_peace = stopwatch.activations(small)
    greedy(lambda structure: structure == SPLIT)
    with pytest.raises(CannotRun, match=r"torch must have memory for it, but has not: .* alloc"):
        stopwatch.network_ratio(small, 1.0)
    assert races == []
    assert small.training
    assert stopwatch.activations(small) == pytest.approx(in_peace)  # which goes with the images
    other = stopwatch.compressed(Plan({"3": OTHER}))
    assert stopwatch.network_ratio(other, 1.0) == (0.5, 0.5, 0.5)


def test_other_errors_are_no_lack_of_memory(stopwatch, monkeypatch, fake_race):
    fake_race(lambda n: [1.0] * n)
    monkeypatch.setattr(SeKronConv, "forward", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stopwatch.candidate_ratios(stopwatch.layers[0], [(SPLIT, Form())], 1.0)
    with pytest.raises(ZeroDivisionError):
        stopwatch.network_ratio(stopwatch.compressed(Plan({"3": SPLIT})), 1.0)


@pytest.fixture
def running(monkeypatch):
    """The networks that run now."""
    networks, forward = [], nn.Sequential.forward

    def noted(network, x):
        networks.append(network)
        try:
            return forward(network, x)
        finally:
            networks.pop()

    monkeypatch.setattr(nn.Sequential, "forward", noted)
    return networks


@pytest.mark.parametrize("where", ["alone", "in a network"])
def test_a_search_goes_on_where_memory_is_too_full(
    where, small_network, small_input, greedy, running, fake_race, tmp_path
):
    # The dense one is the first of layers, which put out lists, and the last of networks.
    races = fake_race(
        lambda n: [0.5, 1.0] if torch.is_tensor(races[-1][0]) else np.linspace(1.0, 0.5, n)
    )

    def found(folder=None):
        return search.run(
            small_network,
            small_input,
            run=folder,
            budget=Budget(flops=0.8),
            n_trials=0,
            n_network_trials=0,
            max_sequence_length=2,
            families=["chain"],
            measure_seconds=20.0,
            include=["6"],
            progress=False,
        )

    (disliked,) = found().best.values()
    is_full = True
    greedy(
        lambda s: is_full and s.shapes == disliked.shapes and bool(running) == (where != "alone")
    )
    with pytest.warns(UserWarning, match=r"^torch does not take .* can't allocate memory"):
        (chosen,) = found(tmp_path).best.values()
    assert chosen.shapes != disliked.shapes
    recorded = json.loads((tmp_path / "latency.json").read_text())
    assert None not in [ratio for timed in recorded["timed"] for ratio in timed["ratios"]]
    assert None not in [network["ratio"] for network in recorded["networks"].values()]
    is_full = False  # the same search in the same folder tries it again
    (again,) = found(tmp_path).best.values()
    assert again == disliked


@pytest.mark.parametrize(
    ("message", "is_lasting"),
    [
        ("bfc_arena.cc:360 Failed to allocate memory for requested buffer of size 4", False),
        ("Exception from allocator.cpp:79:\nstd::bad_alloc", False),
        ("CUDA failure 2: out of memory", False),
        ("Could not find an implementation for Odd(1)", True),
    ],
)
def test_a_lack_of_memory_in_a_runtime_is_recorded_nowhere(
    message, is_lasting, small_network, small_input, monkeypatch, fake_race
):
    def make_ready(name, module, arguments):
        if structures_of(module):
            raise CannotRun(f"{name} must take the network, but does not.") from Exception(message)
        return Ready(name, "1", 1, lambda given: [module(*given.positional)])

    for room in ("sides", "race"):
        monkeypatch.setattr(f"search.clock.{room}.make_ready", make_ready)
    fake_race(lambda n: [1.0] * n)
    profile = search.profile(small_network, small_input)
    stopwatch = Stopwatch(small_network, small_input, profile, "onnxruntime")
    limit = TimeLimit(60.0, lambda: 0.0)
    clock = PlanClock(stopwatch, stopwatch.start(1.0), limit, lambda _: None, lambda _: None)
    member = SimpleNamespace(plan=Plan({"3": SPLIT}), saved=0.5)
    assert clock.time_candidates(member)
    assert not clock.time(member).runs
    point = SPLIT.family, SPLIT.shapes
    assert not clock.timetable.point("3", point).runs
    again = from_json(to_json(clock.timetable), "latency.json")
    assert (again.point("3", point) is not None) == is_lasting
    assert (again.of(member.plan) is not None) == is_lasting


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_memory_that_is_full_is_known_by_what_torch_says(error, expected):
    assert is_out_of_memory(error) == expected


def test_the_dense_layers_that_were_timed_last_stay_ready(monkeypatch):
    made, still_open = [], WeakSet()

    def make_ready(name, module, arguments):
        ready = Ready(name, "1", 1, lambda given: [module(*given.positional), arguments])
        made.append(key)
        still_open.add(ready.run)
        return ready

    monkeypatch.setattr("search.clock.sides.make_ready", make_ready)
    monkeypatch.setattr("search.clock.sides.MOST_KEPT", 2)
    x = torch.ones(2, 3)
    sides = Sides("onnxruntime", Arguments((x,)))
    for key in "abacbac":
        sides.layers(key, nn.Linear(3, 5), [], [x])
        assert len(still_open) == 2 * len(set(made[-4:]))  # each with the call of nothing
    assert made == list("aabbccbbaacc")
