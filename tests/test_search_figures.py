"""Figures of a search: every number drawn is one of the frames, and names stay text."""

import sys

import numpy as np
import pandas as pd
import pytest
from torch import nn

import search
import sekron
from search.figures.front import front_figure
from search.figures.style import escaped
from sekron.structures.diagram import diagram
from sekron.structures.families import FAMILIES

XSS = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def result(small_run):
    return search.load(small_run)


def trace(figure, name):
    (found,) = [trace for trace in figure.data if trace.name == name]
    return found


@pytest.mark.parametrize("x", ["flops", "params"])
def test_every_plan_is_a_point_that_tells_it(result, x):
    front, figure = result.pareto_front(), result.plot_front(x)
    points = trace(figure, "plans")
    assert list(points.x) == front[x].tolist()
    assert list(points.y) == front["error"].tolist()
    assert list(points.customdata) == list(range(len(front)))
    for text, plan in zip(points.text, front["plan"], strict=True):
        assert all(f"{name} {structure}" in text for name, structure in plan.items())


def test_the_best_plan_and_the_budget_are_marked(result):
    figure = result.plot_front()
    best = trace(figure, "best")
    assert list(best.x) == [result.profile.totals(result.best)["flops"]]
    assert list(best.customdata) == [result.best_row]
    limit = result.budget.limit("flops", result.profile.flops)
    assert [line.x0 for line in figure.layout.shapes] == [limit]
    log = result.plot_front(log_x=True, log_y=True)
    assert (log.layout.xaxis.type, log.layout.yaxis.type) == ("log", "log")
    assert log.layout.annotations[0].x == np.log10(limit)  # as plotly wants it, unlike of a line
    assert result.plot_front("params").layout.shapes == ()


def test_no_plan_is_beyond_the_line(result):
    (line,) = [trace for trace in result.plot_front("params").data if trace.mode == "lines"]
    front = result.pareto_front()
    for x, y in zip(line.x, line.y, strict=True):
        assert y == front.loc[front["params"] <= x, "error"].min()


def test_what_is_not_known_is_no_axis(result):
    with pytest.raises(ValueError, match="`x` must be one of flops, params, latency_ms, got 'ms'"):
        result.plot_front("ms")
    with pytest.raises(ValueError, match="has no latency_ms; it is measured by `measure_seconds`"):
        result.plot_front("latency_ms")
    with pytest.raises(ValueError, match="has no score; it is taken by `score`"):
        result.plot_front(y="score")


def test_plans_that_were_not_measured_are_hollow_where_they_are_predicted(result):
    front = result.pareto_front()
    times = np.where(np.arange(len(front)) % 2, np.nan, 3.0)
    ends = {"latency_low_ms": 0.99 * times, "latency_high_ms": 1.02 * times}
    front = front.assign(predicted_ms=5.0, latency_ms=times, **ends)
    figure = front_figure(front, None, {"latency_ms": 4.0}, "latency_ms")
    assert set(trace(figure, "plans").x) == {3.0}
    assert set(trace(figure, "predicted").x) == {5.0}
    rows = [*trace(figure, "plans").customdata, *trace(figure, "predicted").customdata]
    assert sorted(rows) == list(range(len(front)))


def test_a_time_that_is_not_sure_is_a_point_that_the_line_passes_over(result):
    front = result.pareto_front().assign(predicted_ms=5.0, latency_ms=3.0, latency_low_ms=2.95)
    front["latency_high_ms"] = np.where(np.arange(len(front)) == 1, 4.0, 3.05)
    front.loc[1, ["latency_ms", "error"]] = 2.96, 0.0  # it would be the best of all
    figure = front_figure(front, None, {}, "latency_ms")
    assert list(trace(figure, "not sure").customdata) == [1]
    assert 1 not in trace(figure, "plans").customdata
    assert set(trace(figure, "reached").x) == {3.0}


def test_rivals_lie_over_the_front(result):
    names = ["cp", XSS]
    rivals = pd.DataFrame(
        {
            "method": names,
            "ranks_by": "flops",
            "budget": "flops ≤ 50%",
            "error": [1.0, np.nan],
            "error_in_metric": [7.0, 8.0],
            "flops": [500, 600],
        }
    )
    figure = result.plot_front(rivals=rivals)
    assert list(trace(figure, "cp").y) == [1.0]
    assert escaped(XSS) not in [trace.name for trace in figure.data]  # it has no error
    figure = result.plot_front(rivals=rivals.fillna(2.0))
    assert list(trace(figure, escaped(XSS)).y) == [2.0]


def test_layers_before_and_after(result):
    figure, layers = result.plot_layers(result.best), result.layers(result.best)
    assert list(trace(figure, "before").y) == layers["flops_share"].tolist()
    assert list(trace(figure, "after").y) == layers["flops_share_after"].tolist()
    for text, reason in zip(trace(figure, "before").hovertext, layers["reason"], strict=True):
        assert escaped(reason) in text


def test_layers_of_a_plan_add_up_to_the_network(result):
    dense, front = result.layers(), result.pareto_front()
    for row in (0, result.best_row, len(front) - 1):
        plan = front["plan"][row]
        layers = result.layers(plan)
        pd.testing.assert_frame_equal(layers[dense.columns], dense)
        for name in ("flops", "params"):
            saved = (layers[name] - layers[f"{name}_after"]).sum()
            assert result.profile.dense(name) - saved == front[name][row]
        assert layers["error"].pow(2).sum() == pytest.approx(front["error"][row])
        of = layers.set_index("layer")["structure"]
        assert {name: str(structure) for name, structure in plan.items()} == dict(of[of != ""])


def test_the_course_ends_where_all_is_found(result):
    history = result.history()
    for layer, rows in history.groupby("layer"):
        assert rows["structures"].is_monotonic_increasing
        assert rows["found"].is_monotonic_increasing
        assert (rows["structures"].iloc[0], rows["found"].iloc[0]) == (0, 0.0)
        assert rows["structures"].iloc[-1] == len(result.tables[layer].points)
        assert rows["found"].iloc[-1] == 1.0
    assert len(result.plot_history().data) == len(result.tables)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_drawing_joins_the_factors_that_share_a_rank(family, length):
    bonds = FAMILIES[family](length)
    drawn = diagram(bonds)
    assert len(set(drawn.nodes)) == length
    assert len(set(drawn.labels)) == len(drawn.labels) == len(set(sum(bonds, ())))
    for bond, label in enumerate(drawn.labels):
        members = {drawn.nodes[k] for k, carried in enumerate(bonds) if bond in carried}
        ends = {p for edge in drawn.edges if edge.bond == bond for p in (edge.start, edge.end)}
        assert ends == members | ({label} if bond in drawn.hubs else set())
    curves = [(edge.start, edge.control, edge.end) for edge in drawn.edges]
    assert len(set(curves)) == len(curves)  # no line hides another


def test_a_plan_draws_a_layer(result):
    for name, structure in result.best.items():
        texts = [note.text for note in result.best.plot(name).layout.annotations]
        assert "×".join(map(str, structure.weight_shape)) in texts
        assert all("×".join(map(str, shape)) in texts for shape in structure.shapes)
        assert all(str(rank) in texts for rank in structure.ranks)
    with pytest.raises(KeyError, match="must be one that the plan replaces, got 'no'"):
        result.best.plot("no")


def test_groups_are_told():
    structure = sekron.Structure.parse("2*chain:3x1x1x1,1x4x1x1@2")
    plan = sekron.Plan({XSS: structure})
    assert "≈ 2 ×" in [note.text for note in plan.plot(XSS).layout.annotations]


def test_a_name_that_looks_like_html_stays_text(small_input):
    network = nn.Sequential()
    network.add_module(XSS, nn.Conv2d(3, 8, 3))
    network.add_module("二", nn.Conv2d(8, 8, 3))
    result = search.run(
        network,
        small_input,
        budget=search.Budget(),
        n_trials=0,
        include=["*"],
        measure_seconds=0,
        progress=False,
    )
    for figure in (
        result.plot_front(),
        result.plot_layers(result.pareto_front()["plan"][0]),
        result.plot_history(),
    ):
        text = figure.to_json()
        assert "<img" not in text
        assert "\\u003cimg" not in text
        assert "img src=x" in text


def test_without_plotly_is_one_line(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    for plot in (result.plot_front, result.plot_history, lambda: result.plot_layers(result.best)):
        with pytest.raises(
            ImportError, match=r"need plotly, which .* pip install 'sekron\[report\]"
        ):
            plot()
