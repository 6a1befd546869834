"""Further processes on this machine, which end with the one that began them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Self

STORAGE = "SEKRON_STORAGE"
"""Variable of the environment that may hold the URL of the storage: others can read arguments."""


class Processes:
    """Processes of Python that help; one that fails is told of, and missed by nobody.

    They find the modules that this process finds. Their standard input ends when it does, however
    that comes, so that they may call `end_with_parent`.

    Args:
        number: Of them.
        code: That they run.
        arguments: Of the code.
        storage: URL of the Optuna storage, if the search has one.
        complain: Called with why one has ended before the end.
    """

    def __init__(
        self,
        number: int,
        code: str,
        arguments: Sequence[str],
        storage: str | None,
        complain: Callable[[str], object],
    ) -> None:
        # -P: else the working directory comes first, which may hold a module of our name.
        self._number, self._command = number, [sys.executable, "-P", "-c", code, *arguments]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_path())}
        self._environment.pop(STORAGE, None)  # perhaps another search's
        if storage is not None:
            self._environment[STORAGE] = storage
        self._complain = complain
        self._processes: list[subprocess.Popen[str]] = []
        self._threads: list[Thread] = []
        self._is_over = False

    def __enter__(self) -> Self:
        """Begin nothing yet: there may be nothing to help with."""
        return self

    def begin(self) -> None:
        """Begin them."""
        for _ in range(self._number):
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                env=self._environment,
            )
            thread = Thread(target=self._follow, args=(process,), daemon=True)
            thread.start()
            self._processes.append(process)
            self._threads.append(thread)

    def __exit__(self, *_: object) -> None:
        """End them: all is done, or this process has failed and others may go on."""
        self._is_over = True
        for process in self._processes:
            process.terminate()
        for thread in self._threads:
            thread.join()

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Wait for a process, and say why it ended if that was too early."""
        assert process.stdin is not None
        assert process.stderr is not None
        with process.stdin, process.stderr as errors:
            said = errors.read()
            process.wait()
        if process.returncode and not self._is_over:
            last = said.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            self._complain(f"a worker has ended: {last[0].removeprefix('sekron: ')}")


def end_with_parent(at_end: Callable[[], object] = lambda: None) -> None:
    """Let this process end when the one that began it does; nobody else would end it.

    Args:
        at_end: Called before, with what that one may not have been able to do.
    """
    Thread(target=_wait_for_end, args=(at_end,), daemon=True).start()


def _wait_for_end(at_end: Callable[[], object]) -> None:
    try:
        while os.read(0, 1):  # nothing comes before its end
            pass
        at_end()
    finally:
        os._exit(1)


def _path() -> list[str]:
    """Return where this process finds modules, our own package before others of its name."""
    own = str(Path(__file__).parents[2])
    path = [entry or os.getcwd() for entry in sys.path]
    others = (n for n, entry in enumerate(path) if entry != own and _has_namesake(Path(entry)))
    first = next(others, None)
    return path if first is None else [*path[:first], own, *path[first:]]


def _has_namesake(folder: Path) -> bool:
    name = __package__.partition(".")[0]
    return (folder / f"{name}.py").exists() or (folder / name).is_dir()
