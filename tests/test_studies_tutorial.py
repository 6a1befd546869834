"""The notebook from top to bottom, and what of it is kept in the repository."""

import re
from pathlib import Path

import nbformat
import pytest

from studies.tutorial.__main__ import NOTEBOOK, executed

ROOT = Path(__file__).parents[1]
PICTURES = {5, 6, 7}
"""Cells that draw."""


def cells_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of(cell):
    return [(output.output_type, *sorted(output.get("data", {}))) for output in cell.outputs]


@pytest.fixture(scope="module")
def kept():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_what_is_kept_is_small_and_of_ten_cells(kept):
    cells = cells_of(kept)
    assert len(cells) == 10
    assert [cell.execution_count for cell in cells] == list(range(1, 11))
    assert {number for number, cell in enumerate(cells, 1) if "image/png" in str(cell.outputs)} == (
        PICTURES
    )
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 150_000
    assert not re.search(r"/(tmp|home|root|Users|work)/", text)
    assert all(output.output_type != "stream" for cell in cells for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jupyter_client and its loops
def test_it_runs_from_top_to_bottom(kept, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # else the packages that are installed are tried
    text = NOTEBOOK.read_text(encoding="utf-8")
    shorter = {"n_trials=10,": "n_trials=0, max_sequence_length=2,", "in range(6)": "in range(1)"}
    for long, short in shorter.items():
        assert text.count(long) == 1
        text = text.replace(long, short)
    (tmp_path / "short.ipynb").write_text(text, encoding="utf-8")
    now = cells_of(executed(tmp_path / "short.ipynb"))
    for cell, before in zip(now, cells_of(kept), strict=True):
        assert kinds_of(cell) == kinds_of(before), before.source
    assert now[8].outputs[0].data["text/plain"] == "True"
    assert "below 1e-4: True" in now[9].outputs[0].data["text/plain"]
