"""Run the notebook from top to bottom and keep what it prints and draws."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("tutorial.ipynb")
QUIET = "ignore:IProgress not found"
"""What tqdm says of notebooks without widgets is not kept."""

SECONDS = 600
"""For a cell, at most."""


def executed(path: Path = NOTEBOOK) -> NotebookNode:
    """Return a notebook with the outputs of its cells, run in a folder that is gone afterwards.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell raises.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        # Without times, the file is the same where the outputs are.
        client = NotebookClient(notebook, timeout=SECONDS, resources=place, record_timing=False)
        return client.execute(env={**os.environ, "PYTHONWARNINGS": QUIET})


if __name__ == "__main__":
    nbformat.write(executed(), NOTEBOOK)
