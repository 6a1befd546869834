"""Tables as CSV: no text of a stranger is a formula, and what is read is what was written."""

import csv
import io

import pandas as pd
import pytest

from sekron.spreadsheet import FORMULA, as_csv, from_csv

TEXTS = ["layer", "=1+1", "+1", "-1.5", "@sum", "\t=1", "'=1", "''-", "'quoted'", 'a,"b"\n=c', ""]


def test_no_cell_is_a_formula_and_all_are_read_again():
    frame = pd.DataFrame({"text": TEXTS, "error": [-0.5] * len(TEXTS), "flops": range(len(TEXTS))})
    text = as_csv(frame)
    _, *rows = csv.reader(io.StringIO(text))
    assert not [row[0] for row in rows if row[0].startswith(FORMULA)]
    assert {row[1] for row in rows} == {"-0.5"}  # a number is none
    again = from_csv(text, {"text": str})
    assert again["text"].fillna("").tolist() == TEXTS
    assert again[["error", "flops"]].equals(frame[["error", "flops"]])


def test_lines_end_in_the_same_way_on_every_system(monkeypatch):
    monkeypatch.setattr("os.linesep", "\r\n")
    assert as_csv(pd.DataFrame({"a": ["x"]})) == "a\nx\n"


@pytest.mark.parametrize("frame", [pd.DataFrame({"a": [1.5], "b": ["x"]}), pd.DataFrame({"a": []})])
def test_other_tables_are_as_pandas_writes_them(frame):
    assert as_csv(frame) == frame.to_csv(index=False)
    assert as_csv(frame, header=False) == frame.to_csv(index=False, header=False)
