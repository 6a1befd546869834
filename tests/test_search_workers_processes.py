"""Further processes: they end with the one that began them, and tell why if they end before."""

import signal
import subprocess
import sys
import time

import pytest

from search.cli.worker import CODE
from search.workers.processes import Processes

FAILS = "import sys; sys.stderr.write('a warning\\nsekron: the model is gone\\n'); sys.exit(2)"
WAITS = "import sys; print(sys.argv[1:], file=open(sys.argv[1], 'w')); sys.stdin.read()"


def ended(processes):
    return [process.poll() is not None for process in processes._processes]


def wait_for(condition):
    end = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("is_over", [True, False])
def test_one_that_fails_is_told_in_one_line(is_over):
    said = []
    with Processes(1, FAILS, [], None, said.append) as others:
        others._is_over = is_over
        others.begin()
        for thread in others._threads:
            thread.join()
    assert said == ([] if is_over else ["a worker has ended: the model is gone"])


def test_they_get_arguments_storage_and_modules_and_end_with_the_block(tmp_path, monkeypatch):
    said, url = [], "postgresql+psycopg://me:s3cr3tword@host/db"
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    code = f"import os, only_here; assert os.environ['SEKRON_STORAGE'] == {url!r}; {WAITS}"
    path = tmp_path / "arguments"
    with Processes(2, code, [str(path), "x"], url, said.append) as others:
        assert others._processes == []
        others.begin()
        wait_for(lambda: path.exists() and path.read_text().endswith("\n"))
        assert ended(others) == [False, False]
    wait_for(lambda: all(ended(others)))
    assert path.read_text() == f"{[str(path), 'x']}\n"
    assert said == []


def test_without_a_storage_they_get_none_that_another_search_has(monkeypatch):
    monkeypatch.setenv("SEKRON_STORAGE", "sqlite:///others.db")
    said = []
    code = "import os, sys; sys.exit('SEKRON_STORAGE' in os.environ)"
    with Processes(1, code, [], None, said.append) as others:
        others.begin()
        for thread in others._threads:
            thread.join()
    assert said == []


def test_a_worker_that_is_begun_ends_with_its_parent():
    before, _, _ = CODE.partition("from search.cli")  # what it does before it works
    code = f"{before}import time; time.sleep(600)"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    process.stdin.close()
    assert process.wait(60) == 1


def test_their_input_ends_when_their_parent_is_killed(tmp_path):
    path = tmp_path / "child"
    wait = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); sys.stdin.read()"
    over = f"{wait}; open(sys.argv[1] + '-over', 'w').close()"
    code = f"""
import time
from search.cli.worker import CODE
from search.workers.processes import Processes
with Processes(1, {over!r}, [{str(path)!r}], None, print) as others:
    others.begin()
    time.sleep(60.0)
"""
    parent = subprocess.Popen([sys.executable, "-c", code])
    wait_for(lambda: path.exists() and path.read_text())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for((tmp_path / "child-over").exists)


def test_a_keyboard_interrupts_the_search_which_ends_its_workers(monkeypatch):
    seen, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("search.workers.processes.end_with_parent", lambda: None)
    monkeypatch.setattr("search.cli.app.main", lambda: seen.append(signal.getsignal(signal.SIGINT)))
    try:
        exec(CODE, {})
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIG_IGN]


@pytest.mark.parametrize("is_in_path", [False, True])
def test_a_module_of_our_name_in_the_working_directory_is_not_theirs(
    is_in_path, tmp_path, monkeypatch
):
    (tmp_path / "search.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    if is_in_path:
        monkeypatch.syspath_prepend("")
    said = []
    code = "import search.workers.processes" + "; import only_here" * is_in_path
    with Processes(1, code, [], None, said.append) as others:
        others.begin()
        for thread in others._threads:
            thread.join()
        assert others._processes[0].wait() == 0
    assert said == []
