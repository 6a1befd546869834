"""What workers have in hand: by one at a time, taken over from the dead and from nobody else."""

import multiprocessing
import os
import signal
import threading
import time

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.folder.journal import open_journal
from search.folder.storage import open_storage
from search.workers import alive, claims
from search.workers.claims import Claims, joined

PROCESSES = multiprocessing.get_context("spawn")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life and looks in quick succession; only counted time is short."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    monkeypatch.setattr(claims, "POLL", 0.01)


@pytest.fixture(params=["memory", "journal", "database"])
def reopened(request, tmp_path):
    """Open one storage again and again, as other processes would."""
    if request.param == "memory":
        storage = InMemoryStorage()
        return lambda: storage
    if request.param == "journal":
        return lambda: open_journal(tmp_path / "study.log")
    return lambda: open_storage(f"sqlite:///{tmp_path}/study.db")


def states(storage):
    study = storage.get_study_id_from_name("search/workers/claims")
    return [trial.state for trial in storage.get_all_trials(study)]


def elsewhere(monkeypatch, number):
    """Let the next workers live on another machine."""
    monkeypatch.setattr(alive, "_machine", lambda: f"machine {number}")


def test_a_piece_of_work_is_one_workers(reopened):
    with (
        joined(reopened(), "search", is_search=False) as first,
        joined(reopened(), "search", is_search=False) as other,
    ):
        held = first.take("layer")
        assert other.take("layer") is None
        assert other.take("another") is not None
        assert other.finished("layer") is None
        held.done(3.0)
        assert other.finished("layer") is None  # as far as it has looked
        other.look()
        assert other.finished("layer") == 3.0
        assert other.finished("layer", after=other.number) == 3.0
        assert other.take("layer") is not None  # done once more, by whoever wants it
    with joined(reopened(), "search", is_search=False) as late:
        assert late.finished("layer") == 3.0
        assert late.finished("layer", after=late.number) is None
    assert TrialState.RUNNING not in states(reopened())


def test_a_look_of_another_thread_comes_between_a_claim_and_its_own(reopened, monkeypatch):
    with joined(reopened(), "search", is_search=False) as own:
        before, look = own._last, Claims.look

        def overtaken(self):
            found = look(self)
            self._last = before  # as the other thread has seen it, before the claim
            return found

        monkeypatch.setattr(Claims, "look", overtaken)
        own.take("layer").done()


def test_of_many_that_claim_at_once_one_gets_it(reopened):
    start, taken = threading.Barrier(4), []

    def work():
        with joined(reopened(), "search", is_search=False) as own:
            start.wait(60)
            for piece in "abcdef":
                claim = own.take(piece)
                if claim is not None:
                    taken.append(piece)
            start.wait(60)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(set(taken))


def test_what_is_done_once_is_waited_for(reopened):
    done, begun = [], threading.Event()

    def work():
        done.append(1)
        begun.set()
        time.sleep(0.2)
        return 7.0

    def other():
        begun.wait(60)
        with joined(reopened(), "search", is_search=False) as own:
            found.append(own.once("piece", lambda: 8.0))

    found = []
    thread = threading.Thread(target=other)
    thread.start()
    with joined(reopened(), "search", is_search=False) as own:
        assert own.once("piece", work) == 7.0
        thread.join()
    assert (done, found) == ([1], [7.0])


def test_there_is_one_search_at_a_time_and_it_says_where(reopened):
    with joined(reopened(), "search", is_search=True) as first:
        first.take("layer")
        told = rf"'search' must not be made twice, but process {os.getpid()} on .* is at it; "
        with pytest.raises(ValueError, match=told), joined(reopened(), "search", is_search=True):
            pass
        with (
            joined(reopened(), "other", is_search=True),
            joined(reopened(), "search", is_search=False),
        ):
            pass
    with joined(reopened(), "search", is_search=True) as again:
        assert again.take("layer") is not None


def _held_until_killed(path, ready):
    with joined(open_journal(path), "search", is_search=True) as own:
        own.take("layer")
        ready.set()
        time.sleep(600)


def test_what_a_killed_process_had_in_hand_is_free_at_once(tmp_path):
    ready, path = PROCESSES.Event(), tmp_path / "study.log"
    process = PROCESSES.Process(target=_held_until_killed, args=(path, ready))
    process.start()
    assert ready.wait(120)
    storage = open_journal(path)
    told = f"process {process.pid} on"
    with pytest.raises(ValueError, match=told), joined(storage, "search", is_search=True):
        pass
    with joined(storage, "search", is_search=False) as own:
        assert own.take("layer") is None
        os.kill(process.pid, signal.SIGKILL)
        own.wait("")  # though its parent has not asked for it yet
        assert own.take("layer") is not None
    process.join()
    assert TrialState.RUNNING not in states(storage)


@pytest.mark.parametrize(
    "change", [{"pid": 2**22 + 1}, {"since": "0", "pid": os.getppid()}], ids=["ended", "another"]
)
def test_a_process_that_ended_is_dead_and_so_is_one_whose_number_another_has(monkeypatch, change):
    storage = InMemoryStorage()
    place = alive.whereabouts("thread", is_search=True)
    monkeypatch.setattr(
        "search.workers.worker.whereabouts", lambda _, **__: {**place, **change}, raising=True
    )
    Claims(storage, "search").worker.stop()
    monkeypatch.undo()
    with joined(storage, "search", is_search=True):
        assert states(storage)[0] == TrialState.FAIL


def test_on_windows_no_process_is_sent_a_signal(monkeypatch):
    sent = []
    monkeypatch.setattr(os, "kill", lambda *signal: sent.append(signal))
    assert alive.whereabouts("thread", is_search=True)["since"]
    assert sent == [(os.getpid(), 0)]
    monkeypatch.setattr("sys.platform", "win32")
    assert alive.whereabouts("thread", is_search=True)["since"] is None
    assert sent == [(os.getpid(), 0)]


def test_of_another_machine_the_signs_of_life_count(reopened, monkeypatch):
    monkeypatch.setattr(alive, "GRACE", 0.2)
    monkeypatch.setattr(alive, "BEAT", 0.05)
    elsewhere(monkeypatch, 1)
    first = Claims(reopened(), "search")
    first.worker.stop()
    first.take("layer")
    elsewhere(monkeypatch, 2)
    with joined(reopened(), "search", is_search=False) as other:
        for _ in range(20):  # longer than the grace period
            first.worker.beat()
            other.look()
            assert other.take("layer") is None
            time.sleep(0.02)
        other.wait("")
        assert other.take("layer") is not None
        first.worker.beat()
        with pytest.raises(ConnectionError, match=r"others took over what it had in hand; start"):
            first.hold()


def test_time_in_which_nobody_looked_makes_nobody_stale(monkeypatch):
    watch, storage = alive.Watch(), InMemoryStorage()
    elsewhere(monkeypatch, 1)
    other = Claims(storage, "search")
    other.worker.stop()
    trial = storage.get_all_trials(storage.get_study_id_from_name("search/workers/claims"))[0]
    elsewhere(monkeypatch, 2)
    now = [0.0]
    monkeypatch.setattr(alive.time, "monotonic", lambda: now[0])
    assert watch.is_alive(trial)
    now[0] = 1e6
    assert watch.is_alive(trial)
    assert not watch.is_known_alive(trial)
    for _ in range(int(alive.GRACE / alive.BEAT)):
        now[0] += alive.BEAT
        lives = watch.is_alive(trial)
    assert not lives
    assert other.number == 0


def test_a_process_that_was_stopped_asks_before_it_writes(monkeypatch):
    storage = InMemoryStorage()
    stopped = Claims(storage, "search")
    stopped.hold()
    stopped.worker.stop()
    with joined(storage, "search", is_search=False) as other:
        assert other.take("layer") is not None  # by its thread, the one that stopped is dead
    stopped.hold()  # it has given a sign of life just now
    worker = stopped.worker
    monkeypatch.setattr("search.workers.worker.time.time", lambda: worker._beaten_at + alive.GRACE)
    with pytest.raises(ConnectionError, match=r"must give a sign of life every 60 s"):
        stopped.hold()


def test_a_search_that_was_killed_goes_on_beside_its_workers(reopened):
    with joined(reopened(), "search", is_search=False) as helper:
        claim = helper.take("layer")
        with joined(reopened(), "search", is_search=True) as search:
            assert search.held() == {"layer"}
            claim.done(3.0)
            assert search.once("layer", pytest.fail) == 3.0


def test_one_error_is_not_the_end_of_the_signs_of_life(monkeypatch):
    monkeypatch.setattr("search.workers.worker.BEAT", 0.01)
    beats, given = [], threading.Event()

    def beat(worker):
        beats.append(worker)
        if len(beats) == 1:
            raise OSError("the disk is full")
        given.set()

    monkeypatch.setattr("search.workers.worker.Worker.beat", beat)
    with joined(InMemoryStorage(), "search", is_search=True):
        assert given.wait(30.0)


def test_one_that_is_interrupted_at_its_first_look_is_gone(monkeypatch):
    storage, look = InMemoryStorage(), Claims.look

    def interrupted(self):
        monkeypatch.setattr(Claims, "look", look)
        raise KeyboardInterrupt

    monkeypatch.setattr(Claims, "look", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt), joined(storage, "search", is_search=True):
        pass
    assert threading.active_count() == before
    with joined(storage, "search", is_search=True) as own:
        assert own.place == 0
