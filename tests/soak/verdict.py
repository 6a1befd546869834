"""What a command has done with something odd: refused it, or answered, and to what harm."""

import json
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from search.cli.output import SHOWN_BY
from tests.soak.command import Answer

LONGEST = 1500
"""Characters of a line."""

TIMES = re.compile(r'"(seconds|speedup|activations|\w+_ms)": [^,\n]*|127\.0\.0\.1:\d+')
"""What two runs of a command tell differently."""

Snapshot = dict[str, tuple[object, ...]]


def snapshot(folder: Path) -> Snapshot:
    """Return name -> what is seen of everything under a folder, without following links."""
    return {str(path.relative_to(folder)): _seen(path) for path in sorted(folder.rglob("*"))}


def _seen(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    if stat.S_ISDIR(status.st_mode):
        return ("folder",)
    return (stat.S_IFMT(status.st_mode), status.st_ino, status.st_size, status.st_mtime_ns)


def changed(before: Snapshot, after: Snapshot, allowed: Iterable[str]) -> list[str]:
    """Return the names of what was written, made or deleted where that was not allowed."""
    names = sorted({*before, *after})
    different = [name for name in names if before.get(name) != after.get(name)]
    return [name for name in different if not name.startswith(tuple(allowed))]


def refusal(answer: Answer) -> tuple[str, str]:
    """Return the outcome of a command that ended with an error, and what is wrong with it."""
    if not answer.in_time:
        return "hung", "was not done in time"
    if answer.code < 0:
        return "crashed", f"was ended by signal {-answer.code}"
    lines = [line for line in answer.err.splitlines() if line]
    if "Traceback" in answer.err:
        return "traceback", answer.err[-1500:]
    if not lines or not lines[-1].startswith("sekron: ") or len(lines[-1]) > LONGEST:
        return "no line", f"said {answer.err[-500:]!r}"
    return ("refused in another's words" if lines[-1].endswith(SHOWN_BY) else "refused"), ""


def said(answer: Answer) -> object:
    """Return what a command has answered, as far as it does so twice."""
    try:
        rows = json.loads(TIMES.sub('"": 0', answer.out))["rows"]
        return sorted(json.dumps(row) for row in rows)
    except (ValueError, KeyError, TypeError):
        return TIMES.sub("", answer.out)
