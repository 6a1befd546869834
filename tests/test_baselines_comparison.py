"""The comparison: every row is the network that it describes, within its budget."""

import copy
import math
from functools import partial

import pandas as pd
import pytest
import torch

import baselines.entrants
import search
from baselines import ALLOCATIONS, METHODS, compare
from baselines.rows import COLUMNS, STORED, Rows
from search.report.rivals import read_rivals
from sekron.budget import Budget
from sekron.layers.conv import SeKronConv2d
from sekron.layers.linear import SeKronLinear
from sekron.network.plan import Plan
from sekron.profiling.count import count_flops
from sekron.profiling.profile import profile
from sekron.structures.structure import Structure
from tests.conftest import rivals_in_short

HALF = Budget(flops=0.5)
BUDGETS = [HALF, Budget(flops=0.6, params=0.4), Budget(flops=0.01)]
brief = partial(compare, methods=["channel_svd"], allocations=["exact"], progress=False)


@pytest.fixture(scope="module", autouse=True)
def in_short():
    """It is the comparison that is tried here, not its methods."""
    with rivals_in_short():
        yield


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def on_disk(path):
    return pd.read_csv(path).drop(columns="fingerprint")


def same_state(network, before):
    return all(tensor.equal(before[name]) for name, tensor in network.state_dict().items())


@pytest.fixture(scope="module")
def everything(small_network, small_input):
    """All rows at three budgets, the last out of reach, and the networks in the same order."""
    networks, before = [], state(small_network)
    frame = compare(
        small_network,
        small_input,
        BUDGETS,
        score=lambda network: networks.append(network) or float(len(networks)),
        clock=lambda dense, small: (5.0, 1.0 + (dense is small)),
        progress=False,
    )
    assert same_state(small_network, before)
    return frame, networks


@pytest.fixture
def built(monkeypatch):
    """Layer name of every call of `candidates` in a comparison."""
    original, methods = baselines.entrants.candidates, []

    def recorded(model, measured, method, **settings):
        methods.append(next(name for name, own in METHODS.items() if own is method))
        return original(model, measured, method, **settings)

    monkeypatch.setattr("baselines.entrants.candidates", recorded)
    return methods


def test_there_is_a_row_for_every_budget_method_and_rule(everything):
    frame, _ = everything
    rules = {name: list(ALLOCATIONS) for name in METHODS}
    rules["tucker2"] = [*ALLOCATIONS, "vbmf"]
    rules["pruning"] = ["magnitude"]
    expected = [
        (str(b), name, rule) for name, own in rules.items() for b in BUDGETS for rule in own
    ]
    assert tuple(frame.columns) == COLUMNS
    keys = frame[["budget", "method", "ranks_by"]]
    assert [tuple(row) for row in keys.itertuples(index=False)] == expected


def test_every_network_is_what_its_row_says_and_within_its_budget(
    everything, small_network, small_input
):
    frame, networks = everything
    dense = profile(small_network, small_input)
    limits = {str(budget): budget for budget in BUDGETS}
    reached = frame[frame.score.notna()]
    assert list(reached.score) == [float(k) for k in range(1, len(networks) + 1)]
    for row, network in zip(reached.itertuples(), networks, strict=True):
        flops = count_flops(network, (small_input[:1],))[0]
        params = sum(p.numel() for p in network.parameters())
        assert (row.flops, row.params) == (flops, params)
        assert row.flops_ratio == pytest.approx(flops / dense.flops)
        assert row.params_ratio == pytest.approx(params / dense.params)
        assert (row.latency_ms, row.speedup) == (5.0, 1.0)
        for name, used in (("flops", flops), ("params", params)):
            limit = limits[row.budget].limit(name, dense.dense(name))
            assert limit is None or used <= limit, row
        assert network(small_input).shape == (2, 5)


def test_the_error_is_that_of_the_layers(everything, small_network):
    frame, networks = everything
    reached = frame[frame.score.notna()]
    for row, network in zip(reached.itertuples(), networks, strict=True):
        error = 0.0
        for name, layer in network.named_modules():
            if isinstance(layer, SeKronConv2d | SeKronLinear):
                exact = small_network.get_submodule(name).weight.detach()
                rebuilt = layer.dense_weight().detach()
                error += float((rebuilt - exact).norm() / exact.norm()) ** 2
        if row.method == "pruning":
            assert math.isnan(row.error)
        else:
            assert row.error == pytest.approx(error, rel=1e-4)
            assert error > 0.0


def test_all_reach_a_half_and_none_a_hundredth(everything):
    frame, _ = everything
    assert frame[frame.budget == str(HALF)][["flops", "params", "score"]].notna().all(axis=None)
    beyond = frame[frame.budget == str(BUDGETS[-1])]
    assert beyond[list(COLUMNS[3:-1])].isna().all(axis=None)
    assert beyond.seconds.notna().all()


def test_tables_of_a_search_give_its_own_optimum(small_network, small_input, small_run, built):
    result = search.load(small_run)
    frame = brief(
        small_network,
        small_input,
        [HALF, Budget(params=0.6)],
        methods=[],
        tables={"sekron": result.tables},
    )
    assert list(frame.method) == ["sekron"] * 2
    expected = [result.allocate(budget).loss for budget in (HALF, Budget(params=0.6))]
    assert list(frame.error) == pytest.approx(expected, rel=1e-4)
    assert built == []


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_calibration_changes_the_copies_only(small_network, small_input, share):
    before, scored = state(small_network), []
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(4, 3, 14, 11, generator=generator) for _ in range(2)]

    def score(network):
        scored.append(float(network[1].running_mean.sum()))
        return scored[-1]

    frame = brief(
        small_network,
        small_input,
        Budget(flops=share),
        methods=["channel_svd", "pruning"],
        score=score,
        calibration=batches,
    )
    assert same_state(small_network, before)
    # norm 1 sees the first convolution, which stays dense: its own statistics at first
    own = float(small_network[1].running_mean.sum())
    with torch.no_grad():
        averages = [small_network[0](batch).mean((0, 2, 3)).sum() for batch in batches]
    assert scored[0] == own
    assert scored[1] == pytest.approx(float(sum(averages) / 2), abs=1e-5)
    assert frame[["score", "score_recalibrated"]].to_numpy().ravel().tolist() == scored


def test_a_network_that_trains_is_scored_in_evaluation(small_network, small_input):
    network, modes = copy.deepcopy(small_network[:4]).train(), []
    frame = brief(
        network,
        small_input,
        Budget(flops=0.8),
        score=lambda small: modes.append({m.training for m in small.modules()}) or len(modes),
        clock=lambda _, small: modes.append({m.training for m in small.modules()}) or (1.0, 1.0),
        calibration=[small_input],
        repair=True,
    )
    assert modes == [{False}] * 4
    assert frame["score_repaired"].tolist() == [4.0]
    assert all(module.training for module in network.modules())


def test_finished_rows_are_on_disk_and_not_computed_again(
    tmp_path, small_network, small_input, built
):
    path, scored = tmp_path / "rows.csv", []
    arguments = {
        "methods": ["channel_svd", "spatial_svd"],
        "score": lambda _: scored.append(1) or 0.5,
        "output": path,
    }
    first = brief(small_network, small_input, BUDGETS, **arguments)
    assert (len(built), len(scored)) == (2, 4)
    pd.testing.assert_frame_equal(on_disk(path), first, check_dtype=False)
    again = brief(small_network, small_input, BUDGETS, **arguments)
    assert (len(built), len(scored)) == (2, 4)
    pd.testing.assert_frame_equal(again, first, check_dtype=False)
    more = brief(small_network, small_input, [*BUDGETS, Budget(flops=0.7)], **arguments)
    assert (len(built), len(scored), len(more)) == (4, 6, 8)
    pd.testing.assert_frame_equal(on_disk(path), more, check_dtype=False)


def test_rows_of_another_network_are_kept_and_not_used(tmp_path, small_network, small_input):
    path, other = tmp_path / "rows.csv", copy.deepcopy(small_network)
    with torch.no_grad():
        other[3].weight[0].mul_(2.0)
    first = brief(small_network, small_input, HALF, output=path)
    second = brief(other, small_input, HALF, output=path)
    assert (second["error"] != first["error"]).all()
    assert len(on_disk(path)) == 2
    again = brief(small_network, small_input, HALF, output=path)
    pd.testing.assert_frame_equal(again, first)


def test_budgets_that_differ_little_have_rows_of_their_own(tmp_path, small_network, small_input):
    for budget in (HALF, Budget(flops=0.4996)):
        frame = brief(small_network, small_input, budget, output=tmp_path / "rows.csv")
    assert frame.budget.nunique() == 2


def test_an_interruption_gives_the_rows_that_are_finished(tmp_path, small_network, small_input):
    values = iter([1.0, 2.0])

    def score(_):
        value = next(values, None)
        if value is None:
            raise KeyboardInterrupt
        return value

    run = partial(brief, small_network, small_input, HALF, allocations=["exact", "uniform"])
    arguments = {"methods": ["channel_svd", "gkpd"], "output": tmp_path / "rows.csv"}
    with pytest.warns(UserWarning, match="was interrupted; 2 rows are finished"):
        frame = run(score=score, **arguments)
    assert list(frame.score) == [1.0, 2.0]
    assert list(frame.method) == ["channel_svd"] * 2
    values = iter([3.0, 3.0])
    resumed = run(score=score, **arguments)
    assert list(resumed.score) == [1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["pca"]}, r"`methods` must be some of tensor_train, .*pruning, got 'pca'"),
        ({"allocations": ["best"]}, r"`allocations` must be some of exact, .*, got 'best'"),
        ({"budget": Budget(flops=0.5, latency=0.5)}, "needs budgets of flops or params alone"),
        ({"budget": [HALF, Budget()]}, "needs budgets of flops or params alone"),
        ({"tables": {"ours": {"3": None}}}, "tables of 'ours' must be of the layers that are"),
        ({"plans": {"channel_svd": None}}, "different names, got 'channel_svd' twice"),
        ({"output": "no/such/folder/rows.csv"}, "`output` must be in a folder that exists"),
        ({"include": ["nothing"]}, "pattern 'nothing' must match a layer"),
    ],
    ids=["method", "allocation", "latency", "empty", "tables", "names", "folder", "pattern"],
)
def test_bad_input_is_one_line(small_network, small_input, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        brief(small_network, small_input, **{"budget": HALF, **settings})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kept", [0, 5, 60])
def test_what_a_kill_left_of_a_line_is_cut_off(tmp_path, small_network, small_input, kept):
    path = tmp_path / "rows.csv"
    whole = brief(small_network, small_input, [HALF, Budget(flops=0.6)], output=path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:2]) + lines[2][:kept], encoding="utf-8")
    again = brief(small_network, small_input, [HALF, Budget(flops=0.6)], output=path)
    pd.testing.assert_frame_equal(
        on_disk(path).drop(columns="seconds"), again.drop(columns="seconds")
    )
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_plans_made_elsewhere_take_part(small_network, small_input, small_run):
    result = search.load(small_run)
    budgets = [HALF, Budget(flops=0.01)]
    frame = brief(small_network, small_input, budgets, methods=[], plans={"ours": result.plan})
    assert frame["ranks_by"].tolist() == ["plan", "plan"]
    assert frame["error"][0] == pytest.approx(result.allocate(HALF).loss, rel=1e-5)
    assert frame["flops"][0] == result.profile.totals(result.plan(HALF))["flops"]
    assert math.isnan(frame["error"][1])


def test_plans_of_this_call_alone_are_made_anew(tmp_path, small_network, small_input, small_run):
    plan, path, other = search.load(small_run).plan, tmp_path / "rows.csv", Budget(flops=0.6)
    settings = {"methods": [], "output": path}
    before = brief(small_network, small_input, [HALF, other], plans={"ours": plan}, **settings)
    dense = {"ours": lambda _: Plan({})}
    after = brief(small_network, small_input, HALF, plans=dense, **settings).set_index("budget")
    assert after.loc[str(HALF), "flops_ratio"] == 1.0
    assert after.loc[str(other), "error"] == before.set_index("budget").loc[str(other), "error"]


def test_a_row_stands_once_however_often_it_is_made(tmp_path):
    path = tmp_path / "comparison.csv"

    def row(method, budget="=b", **values):
        return dict.fromkeys(COLUMNS, 0.0) | {"budget": budget, "method": method} | values

    other = Rows(path, "another network")
    other.add(row("ours", error=4.0))
    for error in (1.0, 2.0, 3.0):
        rows = Rows(path, "this network")
        rows.forget(["=b", "b"], ["ours"])
        rows.add(row("ours", error=error))
        rows.add(row("ours", "b", error=error))
        rows.add(row("theirs"))
    again = Rows(path, "this network").frame()
    assert again["error"].tolist() == [3.0, 3.0, 0.0]
    assert again["budget"].tolist() == ["=b", "b", "=b"]
    assert Rows(path, "another network").frame()["error"].tolist() == [4.0]
    assert len(path.read_text().splitlines()) == 1 + 4
    assert [file.name for file in tmp_path.iterdir()] == ["comparison.csv"]


@pytest.mark.parametrize("column", ["budget", "error", "flops", "score"])
def test_a_row_that_was_changed_is_refused_and_named(tmp_path, column):
    path = tmp_path / "rows.csv"
    row = dict.fromkeys(COLUMNS, 0.1 + 0.2) | {
        "budget": "flops ≤ 50.0%",
        "method": "=cp",
        "ranks_by": "exact",
        "flops": 70123,
        "latency_ms": float("nan"),
    }
    rows = Rows(path, "abc")
    rows.add(row)
    rows.add({**row, "method": "tucker, or so", "flops": 1.5, "latency_ms": 2})
    assert len(Rows(path, "abc").frame()) == 2
    written = pd.read_csv(path, dtype={"fingerprint": str})
    written[column] = ["flops ≤ 51.0%", *written[column][1:]] if column == "budget" else 0.5
    written.to_csv(path, index=False)
    content = path.read_text()
    message = r"rows\.csv must hold its rows as .*=cp.* was changed; delete the row"
    with pytest.raises(ValueError, match=message):
        Rows(path, "of another network")
    assert path.read_text() == content


LIMITED = dict.fromkeys(COLUMNS, 0.5) | {"budget": "flops ≤ 50.0%", "method": "m", "ranks_by": "r"}


def test_a_line_may_be_cut_within_a_letter(tmp_path):
    path = tmp_path / "rows.csv"
    Rows(path, "abc").add(LIMITED)
    whole = path.read_bytes()
    path.write_bytes(whole + "flops ≤".encode()[:-1])
    assert Rows(path, "abc").frame().to_dict("records") == [LIMITED]
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"0.5", b"0.6", r"was changed; delete the row"),
        ("≤".encode(), b"\xe2\x89", r"rows\.csv must be UTF-8, but byte \d+ is not; name another"),
    ],
    ids=["a number", "a letter"],
)
def test_a_file_that_is_refused_keeps_its_half_line(tmp_path, old, new, message):
    path = tmp_path / "rows.csv"
    Rows(path, "abc").add(LIMITED)
    content = path.read_bytes().replace(old, new, 1) + b"half"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Rows(path, "abc")
    assert path.read_bytes() == content


def test_rows_without_a_checksum_are_read(tmp_path):
    row = dict.fromkeys(COLUMNS, 0.25) | {"budget": "b", "method": "m", "ranks_by": "r"}
    frame = pd.DataFrame([{**row, "fingerprint": "abc"}], columns=list(STORED))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert ("b", "m", "r") in Rows(tmp_path / "rows.csv", "abc")


def test_a_file_with_other_columns_is_refused_and_kept(tmp_path, small_network, small_input):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"other.csv must be a comparison, .* got 'a,b' first"):
        brief(small_network, small_input, HALF, output=path)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"


def test_another_score_is_another_comparison(tmp_path, small_network, small_input):
    def first(network):
        return torch.tensor(1.0)

    def second(network):
        return torch.tensor(2.0)

    path = tmp_path / "rows.csv"
    for score, value in ((first, 1.0), (second, 2.0), (first, 1.0)):
        frame = brief(small_network, small_input, HALF, score=score, output=path)
        assert frame["score"].tolist() == [value]
    assert len(pd.read_csv(path)) == 2


def test_another_setting_of_a_clock_is_another_comparison(tmp_path, small_network, small_input):
    class Clock:
        def __init__(self, setting, ms):
            self.setting, self.ms = setting, ms

        def __call__(self, *_):
            return self.ms, 1.0

    path = tmp_path / "rows.csv"
    for setting, ms, expected in (("here", 1.0, 1.0), ("there", 2.0, 2.0), ("here", 3.0, 1.0)):
        clock = Clock(setting, ms)
        frame = brief(small_network, small_input, HALF, clock=clock, output=path)
        assert frame["latency_ms"].tolist() == [expected]
    assert len(pd.read_csv(path)) == 2
    assert read_rivals(tmp_path) is None
    path.rename(tmp_path / "comparison.csv")
    assert read_rivals(tmp_path)["latency_ms"].tolist() == [2.0]  # as it was compared last


def test_a_report_has_the_rivals_of_the_last_comparison_alone(tmp_path, small_network, small_input):
    """Its own plan is measured anew each time; the rivals of an earlier one are taken from it."""
    path = tmp_path / "comparison.csv"
    half = Plan({"3": Structure.parse("chain:12x1x1x1,1x8x3x3@2")})
    for value in (1.0, 2.0, 1.0):
        clock = partial(lambda ms, *_: (ms, 1.0), value)
        clock.setting = str(value)
        plans = {"sekron": lambda _: half}
        brief(small_network, small_input, Budget(flops=0.9), plans=plans, clock=clock, output=path)
    assert read_rivals(tmp_path)["latency_ms"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", ["1", "01", "True", "None", "nan", "1e3"])
def test_a_method_may_be_named_like_a_number(method, tmp_path):
    row = dict.fromkeys(COLUMNS, 0.5) | {"budget": "flops", "ranks_by": "plan", "score": math.nan}
    rows = Rows(tmp_path / "rows.csv", "0" * 16)
    for name in (method, "cp"):
        rows.add({**row, "method": name})
    again = Rows(tmp_path / "rows.csv", "0" * 16)
    assert ("flops", method, "plan") in again
    assert again.frame()["method"].tolist() == [method, "cp"]
    assert again.frame()["score"].isna().all()


def test_a_network_that_came_factorized_in_part_is_compared(small_network, small_input, small_run):
    found = search.load(small_run)
    first, *_ = found.best
    part = Plan({first: found.best[first]}).apply(small_network)
    calibrated = search.run(
        part,
        small_input,
        budget=HALF,
        n_trials=0,
        measure_seconds=0,
        calibration=[small_input],
        progress=False,
    )
    frame = brief(
        part,
        small_input,
        HALF,
        methods=["channel_svd in metric"],
        metric=calibrated.metrics,
    )
    assert (frame["error_in_metric"] > 0).any()


def test_a_rival_that_fails_costs_no_other_its_rows(small_network, small_input, monkeypatch):
    class Failing:
        def factorize(self, *_):
            raise RuntimeError("no factors")

        def __getattr__(self, name):
            return getattr(METHODS["cp"], name)

    monkeypatch.setitem(METHODS, "tucker2", Failing())
    methods = ["channel_svd", "tucker2", "cp"]
    with pytest.warns(UserWarning, match="'tucker2' failed, .* as it came: no factors"):
        frame = brief(small_network, small_input, HALF, methods=methods, allocations=["exact"])
    assert frame["method"].tolist() == ["channel_svd", "cp"]

    with pytest.warns(UserWarning, match="failed"), pytest.raises(RuntimeError, match="no factors"):
        brief(small_network, small_input, HALF, methods=["tucker2"])

    def plan(_):
        raise ValueError("no plan")

    with pytest.raises(ValueError, match="no plan"):
        brief(small_network, small_input, HALF, methods=[], plans={"ours": plan})
