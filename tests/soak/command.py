"""A command in a process of its own, which can be killed: what it answers."""

import io
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path

PRELOADED = (
    *("search.cli.app", "search.report.page", "tests.soak.python", "accelerate", "fvcore.nn"),
    *("jinja2", "plotly.graph_objects", "optuna_dashboard", "torch.export", "torch._dynamo"),
)
"""What is imported once: a process that is forked afterwards starts in some milliseconds."""

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))

MEMORY = 12 * 2**30
"""Bytes of addresses of a process: what asks for more is refused, and the machine stays."""

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
"""Events of Python at which a disk changes, besides files that are opened to be written."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has left.

    Attributes:
        code: Of its exit; below 0 the signal that ended it.
        out: Its stdout.
        err: Its stderr.
        seconds: That it took.
        n_changes: Times that it changed the disk.
        in_time: Whether it ended by itself.
    """

    code: int
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    n_changes: int = 0
    in_time: bool = True


def answer_of(
    arguments: tuple[str, ...],
    folder: Path,
    limit: float,
    struck_at: int | None = None,
    *,
    deletes: bool = False,
) -> Answer:
    """Run a command in a folder, and kill it when its time is over.

    Args:
        arguments: Of `sekron`; or `python` and the name of a function in `tests.soak.python`.
        folder: Where it runs.
        limit: Seconds.
        struck_at: The change of the disk before which it kills itself.
        deletes: Whether it deletes all folders there instead, as another process might.
    """
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_run, args=(there, arguments, str(folder), struck_at, deletes))
    begun = time.monotonic()
    process.start()
    there.close()
    in_time, said = bool(wait([here, process.sentinel], limit)), None
    with suppress(EOFError):  # it was killed
        said = here.recv() if here.poll() else None
    if not in_time:
        process.kill()
    process.join()
    seconds = time.monotonic() - begun
    here.close()
    code, out, err, n_changes = said or (process.exitcode, "", "", 0)
    process.close()
    return Answer(code, out, err, seconds, n_changes, in_time)


def _run(pipe, arguments, folder, struck_at, deletes):
    import torch  # noqa: PLC0415  the process that starts others has no use for it

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.chdir(folder)
    seen = [0]
    sys.addaudithook(_counter(seen, struck_at, _delete_folders if deletes else _die))
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = _code_of(arguments)
    pipe.send((code, out.getvalue(), err.getvalue(), seen[0]))


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _delete_folders():
    for path in Path().iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _counter(seen, struck_at, strike):
    """Return a hook that counts changes of the disk, and strikes at one of them."""

    def hook(event, arguments):
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if writes or event in CHANGES:
            seen[0] += 1
            if seen[0] == struck_at:
                strike()

    return hook


def _code_of(arguments):
    from search.cli import app, dashboard  # noqa: PLC0415  loaded once
    from tests.soak import python  # noqa: PLC0415  likewise

    if arguments[0] == "python":
        try:
            getattr(python, arguments[1])(*arguments[2:])
        except (ValueError, OSError, TypeError, NotImplementedError) as error:
            return app.fail(error, whole=False)  # tells our sentences from those of others
        except BaseException:
            traceback.print_exc()
            return 1
        return 0
    dashboard.WSGIServer.serve_forever = lambda _: None  # nobody would end it
    sys.argv = ["sekron", *arguments]
    try:
        app.main()
    except SystemExit as exit_:
        return exit_.code
