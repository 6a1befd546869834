"""What a plan leaves of the stages of a network."""

import pandas as pd
import pytest

import search
from studies.runtimes.by_stage import left


def test_a_stage_is_the_layers_whose_names_begin_alike(small_run, monkeypatch):
    result = search.load(small_run)
    layers = result.layers(result.best)
    searched = layers[layers["reason"] == ""]
    each = (searched["flops_after"] / searched["flops"]).tolist()
    assert left(result, result.best, "flops").tolist() == pytest.approx(each)
    names = [f"stage.{name}" if row < 4 else name for row, name in enumerate(layers["layer"])]
    grouped = layers.assign(layer=pd.Series(names, layers.index))
    monkeypatch.setattr(type(result), "layers", lambda *_: grouped)
    first = grouped[grouped["layer"].str.startswith("stage.") & (grouped["reason"] == "")]
    wanted = first["flops_after"].sum() / first["flops"].sum()
    assert len(first) > 1
    assert left(result, result.best, "flops")["stage"] == pytest.approx(wanted)
