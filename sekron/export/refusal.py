"""What a runtime cannot run, and why."""

from __future__ import annotations

import re
import traceback
from itertools import dropwhile
from pathlib import Path

from sekron.forward.evaluation import one_line


class CannotRun(ValueError):
    """A network that a runtime does not take; it says which node, and why."""


def failure_of(error: BaseException) -> str:
    """Return why a network does not run, as a sentence: a refusal's own, or what else it raised."""
    return str(error) if isinstance(error, CannotRun) else f"{one_line(error)}."


def reason_of(error: BaseException) -> str:
    """Return why a network cannot be exported or compiled, in one line.

    That is the node that has no counterpart, or else the line of the network's code that does not
    go, and what the exporter says of it.
    """
    causes = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    where = next(filter(None, map(_node, causes)), "") or _line(causes[-1])
    return f"{where}{one_line(causes[-1])}"


def _node(error: BaseException) -> str:
    found = re.search(r"node %(\w+).*?target=([\w.]+)", str(error))
    return f"node {found[1]} ({found[2].removeprefix('torch.ops.')}): " if found else ""


def _line(error: BaseException) -> str:
    """Return the last line of a network's code that led to an error."""
    frames = dropwhile(
        lambda frame: frame.name != "forward", traceback.extract_tb(error.__traceback__)
    )
    for frame in reversed(list(frames)):
        path = Path(frame.filename)
        if "site-packages" not in path.parts:
            return f"{path.name}:{frame.lineno} in {frame.name}, `{frame.line}`: "
    return ""
