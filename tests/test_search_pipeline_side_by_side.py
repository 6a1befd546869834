"""Layers that are searched at the same time."""

import threading
from concurrent.futures import CancelledError

import pandas as pd
import pytest
import torch

import search
from search.pipeline.side_by_side import side_by_side

BOTH = pytest.mark.parametrize("n_threads", [1, 3])


@BOTH
def test_results_come_in_the_order_of_the_items(n_threads):
    assert side_by_side(lambda item, _: item**2, range(20), n_threads) == [n**2 for n in range(20)]
    assert side_by_side(lambda item, _: item, [], n_threads) == []


def test_items_run_at_the_same_time():
    meeting = threading.Barrier(3, timeout=60)
    side_by_side(lambda _, __: meeting.wait(), range(3), 3)


@BOTH
def test_each_runs_on_one_thread(n_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = side_by_side(lambda _, __: torch.get_num_threads(), range(5), n_threads)
        assert found == [1] * 5
        assert side_by_side(lambda _, __: torch.get_num_threads(), range(1), n_threads, 3) == [3]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@BOTH
def test_the_first_failure_ends_all(n_threads):
    begun, ended = [], []
    failed = threading.Event()

    def work(item, go_on):
        begun.append(item)
        if item == 0:
            failed.set()
            raise KeyError(item)
        failed.wait(60)
        try:
            while True:
                go_on()
        except CancelledError:
            ended.append(item)
            raise

    with pytest.raises(KeyError):
        side_by_side(work, range(50), n_threads)
    assert len(begun) <= n_threads
    assert sorted(ended) == sorted(begun)[1:]


def searched(network, example, **more):
    result = search.run(
        network,
        example,
        budget=search.Budget(flops=0.5),
        n_trials=4,
        measure_seconds=0,
        progress=False,
        **more,
    )
    return result.candidates(), result.pareto_front().drop(columns="plan"), result.best


@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_search_does_not_depend_on_it(small_network, small_input, tmp_path, is_calibrated):
    more = {"calibration": [small_input], "max_sequence_length": 2} if is_calibrated else {}
    candidates, front, best = searched(small_network, small_input, n_threads=1, **more)
    kept = {"run": tmp_path / "run"}, {"storage": f"sqlite:///{tmp_path}/study.db"}
    for n_threads, where in zip((2, 5), kept, strict=True):
        found = searched(small_network, small_input, n_threads=n_threads, **where, **more)
        other_candidates, other_front, other_best = found
        pd.testing.assert_frame_equal(other_candidates, candidates, check_exact=True)
        pd.testing.assert_frame_equal(other_front, front, check_exact=True)
        assert other_best == best


def test_a_search_that_failed_goes_on(small_network, small_input, tmp_path, monkeypatch):
    expected = searched(small_network, small_input)[0]
    curve = search.per_layer.study.Spectra.curve
    calls = []

    def failing(self, family, shapes):
        calls.append(shapes)
        if len(calls) == 30:
            raise RuntimeError("out of memory")
        return curve(self, family, shapes)

    with monkeypatch.context() as patch:
        patch.setattr("search.per_layer.study.Spectra.curve", failing)
        with pytest.raises(RuntimeError, match="out of memory"):
            searched(small_network, small_input, n_threads=2, run=tmp_path)
    assert len(calls) <= 32
    candidates, _, _ = searched(small_network, small_input, n_threads=2, run=tmp_path)
    pd.testing.assert_frame_equal(candidates, expected, check_exact=True)


def test_a_number_out_of_range_is_refused(small_network, small_input):
    with pytest.raises(ValueError, match=r"`n_threads` must be at least 1, got 0\."):
        searched(small_network, small_input, n_threads=0)
    with pytest.raises(TypeError, match=r"`n_threads` must be a whole number, got 1\.5"):
        searched(small_network, small_input, n_threads=1.5)
