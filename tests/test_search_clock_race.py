"""The clock, with one that the tests turn themselves: when it stops, and what it leaves behind."""

import errno
import fcntl
import itertools
import math
import os
import select
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from search.clock.race import (
    FEWEST,
    LOOK_AGAIN,
    WARM_UP,
    compare,
    forward,
    interval,
    latency,
    race,
    synchronized,
)
from search.clock.run_queue import RunQueue
from tests.pretended_device import DEVICE, PretendedDevice

ROOT = Path(__file__).parents[1]
CALLS = WARM_UP + FEWEST


class Clock:
    """Stands still, but for the runs."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def run(self, *seconds):
        """Return a function that takes one of these times after another, the last for ever."""
        left = itertools.chain(seconds, itertools.repeat(seconds[-1]))

        def run():
            self.now += next(left)

        return run


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Lock these tests' own folder, not the machine's clock."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Slow(nn.Module):
    """Takes its time, and sees how it is called."""

    def __init__(self, clock, *seconds, fails_at=None):
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(), nn.Linear(2, 3))
        self.run, self.fails_at, self.calls = clock.run(*seconds), fails_at, []

    def forward(self, *inputs):
        modes = {module.training for module in self.modules()}
        self.calls.append((*inputs, *modes, torch.is_grad_enabled()))
        if len(self.calls) == self.fails_at:
            raise RuntimeError("out of order")
        self.run()


@contextmanager
def opened(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def is_locked(folder):
    with opened(folder) as descriptor:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("n", [*range(FEWEST, 201), 1000, 4999])
def test_the_interval_covers_the_median_95_times_of_100(n):
    low, middle, high = interval(np.random.default_rng(0).permutation(n).astype(float))
    assert middle == (n - 1) / 2
    below = stats.binom(n, 0.5)  # how many samples are below the true median
    coverage = below.cdf(high) - below.cdf(low)
    assert 0.947 <= coverage < 0.995


@pytest.mark.parametrize("n", [*range(1, 201), 1000, 4999])
def test_the_interval_is_scipys(n):
    samples = np.random.default_rng(n).exponential(size=n)
    ends = stats.quantile_test(samples, p=0.5).confidence_interval(0.95)
    np.testing.assert_array_equal(interval(samples), (ends.low, np.median(samples), ends.high))


@pytest.mark.parametrize("n", [FEWEST, 8, 50])
def test_equal_samples_have_no_interval(n):
    assert interval(np.full(n, 0.3)) == (0.3, 0.3, 0.3)


def test_the_interval_of_a_multiple_is_the_multiple():
    samples = np.random.default_rng(0).random(29)
    low, middle, high = interval(samples)
    assert low < middle == np.median(samples) < high
    assert interval(8 * samples) == (8 * low, 8 * middle, 8 * high)


@pytest.mark.parametrize("n_runs", [1, 2, 3])
def test_equal_times_take_the_fewest_rounds(clock, n_runs):
    seconds = [0.25 * (k + 1) for k in range(n_runs)]
    times = race([clock.run(s) for s in seconds], precision=1e-9, max_seconds=1e9)
    assert times.dtype == np.float64
    assert times.tolist() == [[s] * 7 for s in seconds]


def test_the_warm_up_does_not_count(clock):
    times = race([clock.run(64, 32, 16, 0.25)], precision=1e-9, max_seconds=1e9)
    assert times.tolist() == [[0.25] * 7]


def test_the_runs_take_turns(clock):
    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    race([*runs, clock.run(1)])
    assert order == [*"abc"] * CALLS


def test_what_comes_before_each_run_takes_no_time(clock):
    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]

    def before():
        order.append("-")
        clock.now += 9

    times = race([*runs, clock.run(1)], before=before)
    assert order == [*"-a-b-c-"] * CALLS
    assert times.tolist() == [[0.0] * 7] * 3 + [[1.0] * 7]


def test_noise_is_measured_until_the_time_is_up(clock):
    warm_up = [1.0] * WARM_UP
    times = race([clock.run(*warm_up, *[1.0, 2.0] * 50)], max_seconds=20)
    assert times.tolist() == [[1.0, 2.0] * 7]  # 21 seconds, and 19 before the last
    assert clock.now == 1000 + WARM_UP + 21


def test_when_the_time_is_up_there_are_the_fewest_rounds(clock):
    times = race([clock.run(1.0), clock.run(*range(1, 100))], precision=1e-9, max_seconds=1e-9)
    assert times.tolist() == [[1.0] * 7, [*range(1 + WARM_UP, 8 + WARM_UP)]]


@pytest.mark.parametrize("precision", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("n_runs", [1, 2, 3])
def test_it_stops_at_the_first_look_that_is_precise(clock, precision, n_runs):
    seconds = np.random.default_rng(n_runs).normal(1, 0.1, (n_runs, 10_000)).clip(0.5)
    times = race([clock.run(*row) for row in seconds], precision=precision, max_seconds=1e9)

    def is_precise(n_rounds):
        rows = times[:, :n_rounds]
        for row in rows[1:] / rows[0] if n_runs > 1 else rows:
            low, middle, high = interval(row)
            if high - low > 2 * precision * middle:
                return False
        return True

    assert times.shape[1] < 9900
    expected = seconds[:, WARM_UP : WARM_UP + times.shape[1]]
    np.testing.assert_allclose(times, expected, rtol=0, atol=1e-9)
    assert is_precise(times.shape[1])
    looks = [FEWEST]
    while looks[-1] < times.shape[1]:
        looks.append(math.ceil(LOOK_AGAIN * looks[-1]))
    assert looks[-1] == times.shape[1]
    assert not any(map(is_precise, looks[:-1]))


def test_drift_that_hits_all_alike_costs_no_rounds(clock):
    drift = [2.0**k for k in range(20)]
    runs = [clock.run(*drift), clock.run(*(3 * d for d in drift))]
    times = race(runs, precision=1e-9, max_seconds=1e9)
    assert times.shape == (2, 7)
    assert (times[1] / times[0]).tolist() == [3] * 7


@pytest.mark.parametrize("arguments", [(7,), (7, 11)], ids=["one-argument", "two-arguments"])
def test_the_latency_of_a_network(clock, arguments):
    warm_up = [1.0] * WARM_UP
    model = Slow(clock, *warm_up, *[0.25, 0.5, 0.125] * 50)
    found = latency(model, arguments, max_seconds=0.01)
    assert (found.n_runs, found.median_ms, found.low_ms, found.high_ms) == (7, 250, 125, 500)
    assert model.calls == [(*arguments, False, False)] * CALLS


def test_a_tensor_is_the_only_argument(clock):
    model, x = Slow(clock, 1.0), torch.ones(2)
    latency(model, x)
    assert all(call[0] is x and call[1:] == (False, False) for call in model.calls)


def test_two_networks_are_compared_round_by_round(clock):
    drift = [2.0**k for k in range(20)]
    first, second = Slow(clock, *drift), Slow(clock, *(d / 4 for d in drift))
    found = compare(first, second, (7,), precision=1e-9)
    assert (found.low, found.ratio, found.high) == (4, 4, 4)
    assert found.first.n_runs == found.second.n_runs == 7
    assert found.first.median_ms == 4 * found.second.median_ms == 1e3 * drift[WARM_UP + 3]
    assert first.calls == second.calls == [(7, False, False)] * CALLS
    back = compare(Slow(clock, 1.0), Slow(clock, 4.0), (7,))
    assert (back.low, back.ratio, back.high) == (0.25, 0.25, 0.25)


def test_a_network_compared_with_itself(clock):
    model = Slow(clock, 0.5)
    assert compare(model, model, (7,)).ratio == 1
    assert len(model.calls) == 2 * CALLS
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("fails_at", [None, 1, CALLS], ids=["", "fails-first", "fails-last"])
@pytest.mark.parametrize("gradients", [True, False], ids=["grad", "no-grad"])
def test_everything_is_left_as_it_was(clock, folder, gradients, fails_at):
    first, second = Slow(clock, 1.0), Slow(clock, 1.0, fails_at=fails_at)
    first.inner[0].eval()
    second.eval().inner.train()
    modules = [*first.modules(), *second.modules()]
    flags = [module.training for module in modules]
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.set_grad_enabled(gradients):
        for measure in (lambda: compare(first, second, (7,)), lambda: latency(second, (7,))):
            second.calls.clear()
            if fails_at is None:
                measure()
            else:
                with pytest.raises(RuntimeError, match="out of order"):
                    measure()
            assert torch.is_grad_enabled() is gradients
            assert [module.training for module in modules] == flags
            assert not is_locked(folder)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("precision", "max_seconds"), [(0, 5.0), (-0.1, 5.0), (0.02, 0), (0.02, -1)]
)
def test_limits_must_be_positive(clock, precision, max_seconds):
    model = Slow(clock, 1.0)
    limits = {"precision": precision, "max_seconds": max_seconds}
    for measure in (
        lambda: race([model], **limits),
        lambda: latency(model, (7,), **limits),
        lambda: compare(model, model, (7,), **limits),
    ):
        with pytest.raises(ValueError, match="`precision` and `max_seconds` must be pos") as error:
            measure()
        assert str(error.value).endswith(f"positive, got {precision} and {max_seconds}.")
        assert "\n" not in str(error.value)
    assert model.calls == []
    assert model.training


def test_the_machine_is_locked_while_it_measures(folder):
    locked = []
    race([lambda: locked.append(is_locked(folder))], max_seconds=1e-9)
    assert locked == [True] * CALLS
    assert not is_locked(folder)


def test_it_is_attended_to_once_the_machine_is_locked(clock, folder, monkeypatch):
    flock, seen, queue = fcntl.flock, [], RunQueue()

    def slowly(*arguments):
        clock.now += 7.0
        flock(*arguments)

    @contextmanager
    def attended(queued):
        with queue.attended(queued):
            seen.append(is_locked(folder))
            yield

    monkeypatch.setattr("search.clock.alone.fcntl", SimpleNamespace(flock=slowly, LOCK_EX=2))
    race([clock.run(1.0)], precision=1e-9, attended=attended)
    assert seen == [True]
    assert (queue.queued, queue.passed) == (7.0, CALLS)


def test_two_threads_of_a_process_take_turns(folder):
    order = []

    def measure(name):
        race([lambda: order.append(name)], max_seconds=1e-9)

    threads = [threading.Thread(target=measure, args=(name,)) for name in "ab"]
    with opened(folder) as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # both wait
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert "".join(order) in ("a" * CALLS + "b" * CALLS, "b" * CALLS + "a" * CALLS)


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files to others")
def test_the_lock_of_another_user_does_not_keep_this_one_from_measuring(folder):
    """As in a shared folder of temporary files, where nobody may touch what is another's."""
    (folder / "sekron-clock.lock").touch(0o666)
    for path in (folder, *folder.iterdir()):
        os.chown(path, 12345, 12345)
    folder.chmod(0o1777)
    locked = []
    race([lambda: locked.append(is_locked(folder))], max_seconds=1e-9)
    assert locked == [True] * CALLS


def test_where_folders_cannot_be_locked_it_is_measured_all_the_same(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EBADF, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    calls = []
    race([lambda: calls.append(1)], max_seconds=1e-9)
    assert len(calls) == CALLS


CHILD = """
    from search.clock.race import race
    print("ready", flush=True)
    race([lambda: print("measures", flush=True)], max_seconds=1e-9)
"""


def test_another_process_waits_until_the_clock_is_free(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", textwrap.dedent(CHILD)]
    with (
        opened(folder) as held,
        subprocess.Popen(
            command, cwd=ROOT, env=environment, bufsize=0, stdout=subprocess.PIPE
        ) as child,
    ):
        fcntl.flock(held, fcntl.LOCK_EX)
        assert child.stdout.readline() == b"ready\n"
        assert select.select([child.stdout], [], [], 0.5)[0] == []  # nothing comes while it is held
        fcntl.flock(held, fcntl.LOCK_UN)
        assert child.stdout.read() == b"measures\n" * CALLS
    assert child.returncode == 0


def test_without_a_device_nothing_is_synchronized():
    def run():
        pass

    on_meta = nn.Linear(2, 3, device="meta")
    assert synchronized(run, (torch.ones(2), 7, None), nn.BatchNorm1d(2), on_meta) is run


@pytest.fixture
def calls(monkeypatch):
    """What was done, in order: "run", or the device that was waited for."""
    made = []
    monkeypatch.setattr(torch.accelerator, "synchronize", made.append)
    return made


@pytest.mark.parametrize("place", ["arguments", "parameters", "buffers"])
def test_a_device_of_any_type_is_waited_for_wherever_it_is_met(calls, place):
    network, x = nn.BatchNorm1d(2), torch.ones(3, 2)
    with PretendedDevice() as device:
        device.put([x] if place == "arguments" else list(getattr(network, place)()))
        work = synchronized(lambda: calls.append("run") or 7, {"x": x}, nn.Linear(2, 3), network)
        assert work() == 7
    assert calls == ["run", DEVICE]


def test_a_forward_pass_waits_for_the_devices_of_its_network(calls):
    moving = nn.Identity()
    moving.register_buffer("scale", torch.ones(2))
    with PretendedDevice() as device:
        device.put(list(moving.buffers()))
        forward(moving, torch.ones(3, 2), "torch")()
    forward(nn.Linear(2, 3), torch.ones(3, 2), "torch")()
    assert calls == [DEVICE]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_device_ends_when_its_work_has():
    x = torch.ones(4096, 4096, device="cuda")
    work = synchronized(lambda: [x @ x for _ in range(20)], (x,))
    work()
    assert torch.cuda.current_stream().query()
