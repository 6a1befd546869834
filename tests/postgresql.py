"""A real PostgreSQL, as long as a test wants it."""

import gc
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

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


@contextmanager
def running_server():
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
