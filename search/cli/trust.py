"""Which code may run for a run folder: what its user has named on this machine, and no other.

A run folder is data, perhaps a stranger's. It records which model was searched, so that the same
user need not name it again; but a record alone never makes a module run. Whoever names a model is
remembered in a note outside of the folder.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from contextlib import suppress
from pathlib import Path

from search.folder.own_state import own_state
from search.folder.run_record import RunRecord


def remember(run: str, model: str) -> None:
    """Note that the user has named a model for a run folder on this machine."""
    note = _note(run, model)
    if note is None:
        return
    with suppress(OSError):  # then the user is asked again
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"{os.path.realpath(run)}\n{model}\n", encoding="utf-8")


def model_of(run: str, record: RunRecord, named: str) -> str:
    """Return the model that may be imported for a run folder.

    Args:
        run: The folder.
        record: What it says.
        named: What the user says, `module:attribute`; empty for nothing.

    Raises:
        ValueError: If the user says nothing, and has not named the recorded one here before.
    """
    if named:
        remember(run, named)
        return named
    recorded = record.source.model
    if not recorded:
        raise ValueError(
            f"{run} was searched from Python, so its model is not known here; add --model "
            "module:attribute."
        )
    note = _note(run, recorded)
    if note is None or not note.exists():
        raise ValueError(
            f"{run} says that its model is {recorded!r}, which nobody has named for it on this "
            "machine, and importing it runs its code; if that is what you want, add --model "
            f"{shlex.quote(recorded)}."
        )
    return recorded


def _note(run: str, model: str) -> Path | None:
    folder = own_state()
    digest = hashlib.sha256(f"{os.path.realpath(run)}\n{model}".encode()).hexdigest()
    return None if folder is None else folder / "models" / digest
