"""A real PostgreSQL: searched in, stopped while it is searched in, and then one line."""

import gc
import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
import torch
from torch import nn

import search
from search.folder.storage import open_storage, read_storage
from tests.test_search_folder_run_folder import run

pytestmark = pytest.mark.filterwarnings(  # Optuna keeps its connections until it is collected
    "ignore:.*was deleted while still open:ResourceWarning",
    "ignore:.*Exception ignored in.*Connection:pytest.PytestUnraisableExceptionWarning",
)
PASSWORD = "s3cr3tword"


def _binaries():
    found = shutil.which("pg_config")
    if found is None:
        pytest.skip("no PostgreSQL on this machine")
    shown = subprocess.run([found, "--bindir"], check=True, capture_output=True, text=True)
    return Path(shown.stdout.strip())


class Server:
    """Of its own folder, reached by a socket in it; not run by root, who may not."""

    def __init__(self, folder, binaries):
        self.folder, self._binaries = folder, binaries
        self._user = "nobody" if os.getuid() == 0 else None
        self._run("initdb", "-D", folder / "data", "-U", "me", "--auth=trust", "--no-sync")
        self.url = f"postgresql+psycopg://me:{PASSWORD}@/postgres?host={folder}"
        self.start()

    def start(self):
        options = f"-k {self.folder} -c listen_addresses= -c fsync=off"
        log = self.folder / "log"
        self._run("pg_ctl", "start", "-w", "-D", self.folder / "data", "-o", options, "-l", log)

    def stop(self):
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", self.folder / "data")

    def _run(self, name, *arguments):
        subprocess.run(
            [self._binaries / name, *map(str, arguments)],
            check=True,
            user=self._user,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )


@pytest.fixture
def server():
    folder = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())  # a short name
    binaries = _binaries()
    if os.getuid() == 0:
        shutil.chown(folder, "nobody")
    made = Server(folder, binaries)  # where there is a server, it must start
    yield made
    for found in gc.get_objects():
        if type(found) is psycopg.Connection:  # `isinstance` would ask every object
            found.close()
    made.stop()
    shutil.rmtree(folder)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))


def searched(folder, url, **changes):
    example = torch.zeros(1, 3, 9, 9)
    return run(network(), example, run=folder, storage=url, n_trials=4, include=["*"], **changes)


def test_a_database_that_goes_is_told_in_one_line_and_gone_on_with(server, tmp_path, monkeypatch):
    whole = searched(tmp_path / "whole", None)
    from search.per_layer.study import LayerStudy  # noqa: PLC0415  as it is patched

    propose, calls = LayerStudy.propose, []

    def stopping(self):
        calls.append(1)
        if len(calls) == 3:
            server.stop()
        propose(self)

    monkeypatch.setattr(LayerStudy, "propose", stopping)
    with pytest.raises(ConnectionError, match=r"^the storage .* must stay reachable, ") as caught:
        searched(tmp_path / "run", server.url, n_threads=1)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 900
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None
    for open_ in (open_storage, read_storage):
        with pytest.raises(ValueError, match="must open, but it raised"):
            open_(server.url)
    server.start()
    result = searched(tmp_path / "run", server.url)
    assert result.candidates().equals(whole.candidates())
    assert search.load(tmp_path / "run", storage=server.url).best == whole.best
