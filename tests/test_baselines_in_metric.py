"""Rivals in our metric, and repaired as ours are."""

import copy

import pandas as pd
import pytest
import torch
from torch import nn

import search
import sekron
from baselines import METHODS, candidates, compare
from baselines.contenders import factorized_in
from baselines.rows import STORED
from sekron.budget import Budget
from sekron.decomposition.errors import fitted_error
from sekron.decomposition.metric import Metric
from sekron.network.network_metric import NetworkMetric
from sekron.network.surgery import structures_of
from sekron.profiling.profile import profile
from sekron.rank_curves.curves import Spectra
from sekron.structures.geometry import Geometry
from tests.conftest import decayed, rivals_in_short

BUDGETS = [Budget(flops=0.4), Budget(params=0.5)]
SAME = ["tensor_train", "tucker2", "spatial_svd", "channel_svd"]
"""Methods whose candidates a search has too."""

WEIGHTS = {
    "conv": nn.Conv2d(6, 8, 3),
    "asymmetric": nn.Conv2d(6, 8, (1, 3)),
    "pointwise": nn.Conv2d(10, 12, 1),
    "linear": nn.Linear(10, 14),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_weight = pytest.mark.parametrize("kind", WEIGHTS)


@pytest.fixture(scope="module", autouse=True)
def in_short():
    """Each candidate is looked at: five ranks in place of twelve will do."""
    with rivals_in_short(5, 20):
        yield


def made(kind):
    """A weight with a falling spectrum, where it stands, and a metric that matters."""
    torch.manual_seed(0)
    layer = WEIGHTS[kind]
    layer.reset_parameters()
    weight = decayed(nn.Sequential(layer))[0].weight.detach().double()
    parts = []
    for n in weight.shape[:2]:
        basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64)).Q
        parts.append(basis * torch.logspace(0, -1, n, dtype=torch.float64) @ basis.mT)
    geometry = Geometry.of(tuple(weight.shape), (7, 5) if weight.dim() == 4 else ())
    return weight, (geometry,), Metric(*parts, 3.0)


def rows_of(method, weight, geometries, metric):
    spectra = Spectra(weight, geometries, metric)
    return [
        (curve.structure(row), curve.errors[row])
        for curve in method.curves(spectra, float("inf"))
        for row in range(len(curve.errors))
    ]


@pytest.fixture(scope="module")
def batches():
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(48, 3, 14, 11, generator=generator)
    return list((images * torch.tensor([2.0, 1.0, 0.3])[:, None, None]).split(16))


@pytest.fixture(scope="module")
def calibrated(small_network, small_input, batches):
    return search.run(
        small_network,
        small_input,
        budget=BUDGETS[0],
        calibration=batches,
        n_trials=0,
        measure_seconds=0,
        progress=False,
    )


@pytest.fixture(scope="module")
def compared(small_network, small_input, batches, calibrated):
    """Rows of ours, the plain rivals and those in the metric, and their networks."""
    networks = []
    frame = compare(
        small_network,
        small_input,
        BUDGETS,
        allocations=["exact"],
        plans={"calibrated": calibrated.plan},
        metric=calibrated.metrics,
        calibration=batches,
        score=lambda network: networks.append(network) or float(len(networks)),
        progress=False,
    )
    return frame, networks[::2]  # each is scored twice


@every_method
@every_weight
def test_the_factors_have_the_error_of_the_candidate_in_the_metric(method, kind):
    weight, geometries, metric = made(kind)
    rows = rows_of(method, weight, geometries, metric)
    assert rows
    for candidate, error in rows:
        structure, factors = factorized_in(metric, method.factorize, weight, candidate)
        assert tuple(f.shape for f in factors) == structure.factor_shapes
        assert {f.dtype for f in factors} == {weight.dtype}
        found = fitted_error(weight, factors, structure, metric)
        if method is METHODS["tucker2"] and structure != candidate:
            assert found <= error + 1e-7, candidate  # orthogonal iteration gains
        else:
            assert found == pytest.approx(error, abs=1e-6), candidate


@every_method
@every_weight
def test_in_the_plain_norm_they_are_the_plain_rivals(method, kind):
    weight, geometries, _ = made(kind)
    identity = Metric(*(torch.eye(n, dtype=torch.float64) for n in weight.shape[:2]))
    plain = {(s.shapes, s.ranks): e for s, e in rows_of(method, weight, geometries, None)}
    found = {(s.shapes, s.ranks): e for s, e in rows_of(method, weight, geometries, identity)}
    assert set(found) & set(plain)
    for key in set(found) & set(plain):
        assert found[key] == pytest.approx(plain[key], abs=1e-7)
    if method is not METHODS["gkpd"]:  # a structure that divides channels has fewer ranks
        assert set(found) == set(plain)
    structure, _ = rows_of(method, weight, geometries, None)[0]
    whitened = factorized_in(identity, method.factorize, weight, structure)[1]
    exact = factorized_in(None, method.factorize, weight, structure)[1]
    for one, other in zip(whitened, exact, strict=True):
        torch.testing.assert_close(one, other)


def test_candidates_are_weighed_as_in_a_calibrated_search(small_network, small_input, calibrated):
    measured = profile(small_network, small_input)
    tables = candidates(small_network, measured, METHODS["channel_svd"], metrics=calibrated.metrics)
    for name, table in tables.items():
        own = calibrated.tables[name]
        assert (table.sensitivity, table.power) == (own.sensitivity, own.power)
        assert len(table) > 0


def test_all_take_part_twice_and_once_what_has_a_metric_of_its_own(compared):
    frame, _ = compared
    twice = [f"{name}{behind}" for behind in ("", " in metric") for name in METHODS]
    expected = ["calibrated", *twice, "activation_svd", "pruning"]
    assert list(dict.fromkeys(frame.method)) == expected
    rules = frame.groupby("method").ranks_by.unique()
    assert list(rules["activation_svd"]) == ["exact", "lagrangian"]
    assert list(rules["tucker2 in metric"]) == ["exact", "vbmf"]
    assert frame[["flops", "score_recalibrated"]].notna().all(axis=None)
    assert frame["score_repaired"].isna().all()


def test_both_errors_are_those_of_the_network(compared, small_network, calibrated):
    frame, networks = compared
    for row, network in zip(frame.itertuples(), networks, strict=True):
        if row.method == "pruning":
            assert pd.isna(row.error)
            assert pd.isna(row.error_in_metric)
            continue
        plain, weighed = 0.0, 0.0
        for name, structure in structures_of(network).items():
            weight = small_network.get_submodule(name).weight.detach().double()
            rest = network.get_submodule(name).dense_weight().detach().double() - weight
            metric = calibrated.metrics[name]
            plain += float(rest.norm() / weight.norm()) ** 2
            relative = float(metric.whiten(rest).norm() / metric.whiten(weight).norm())
            weighed += metric.sensitivity * relative**4
            assert structure.weight_shape == tuple(weight.shape)
        assert row.error == pytest.approx(plain, rel=1e-4)
        assert row.error_in_metric == pytest.approx(weighed, rel=1e-4)


def test_the_metric_gives_something_and_ours_has_the_least_error_in_it(compared):
    frame, _ = compared
    table = frame[frame.ranks_by.isin(["exact", "plan"])].pivot_table(
        index="budget", columns="method", values="error_in_metric"
    )
    for name in SAME:
        assert (table[f"{name} in metric"] < table[name]).all()
        assert (table[f"{name} in metric"] >= table["calibrated"] * (1 - 1e-6)).all(), name


def test_repair_is_that_of_ours_and_touches_no_dense_network(small_network, small_input, batches):
    before = {name: tensor.clone() for name, tensor in small_network.state_dict().items()}
    networks = []
    frame = compare(
        small_network,
        small_input,
        BUDGETS[0],
        methods=["channel_svd", "pruning"],
        allocations=["exact", "uniform"],
        calibration=batches,
        repair=True,
        score=lambda network: networks.append(copy.deepcopy(network)) or float(len(networks)),
        progress=False,
    )
    scores = ["score", "score_recalibrated", "score_repaired"]
    best = frame[scores].to_numpy()[1]
    assert best.tolist() == [3.0, 4.0, 5.0]
    # The other rule scored less, and channels that are gone cannot be refitted.
    assert frame[scores[:2]].to_numpy()[::2].tolist() == [[1.0, 2.0], [6.0, 7.0]]
    assert frame["score_repaired"].isna().tolist() == [True, False, True]
    own = copy.deepcopy(networks[2])
    sekron.repair(own, small_network, batches, progress=False)
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(networks[4].state_dict()[name], tensor, rtol=1e-3, atol=1e-4)
    for name, tensor in small_network.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["cp in metric"]}, "'cp in metric' needs `metric`, such as `result.metrics`"),
        ({"methods": ["activation_svd"]}, "'activation_svd' needs unlabelled batches; give `cali"),
        ({"methods": ["pruning in metric"]}, "`methods` must be some of .*, got 'pruning in met"),
        ({"metric": NetworkMetric()}, "`metric` must hold every layer .*, got none for '3'; take"),
        ({"repair": True}, "`repair` must come with `score` and `calibration`; give both"),
    ],
    ids=["metric", "batches", "no-metric", "empty", "repair"],
)
def test_what_lacks_something_is_refused_by_name(small_network, small_input, settings, message):
    with pytest.raises(ValueError, match=message) as error:
        compare(small_network, small_input, BUDGETS[0], progress=False, **settings)
    assert "\n" not in str(error.value)


def test_rows_in_another_metric_or_repaired_are_other_rows(
    tmp_path, small_network, small_input, batches, calibrated
):
    path = tmp_path / "rows.csv"
    settings = {"methods": ["channel_svd"], "allocations": ["exact"], "output": path}

    def rows(**others):
        compare(small_network, small_input, BUDGETS[0], progress=False, **settings, **others)
        return len(pd.read_csv(path))

    assert [rows(), rows(), rows(metric=calibrated.metrics), rows(calibration=batches)] == [
        *(1, 1, 2, 3)
    ]
    assert rows(calibration=batches[:2]) == 4
    scored = {"calibration": batches, "score": lambda _: 1.0}
    assert [rows(**scored), rows(**scored, repair=True)] == [5, 6]


def test_a_file_of_fewer_columns_is_refused_and_kept(tmp_path, small_network, small_input):
    path = tmp_path / "old.csv"
    old = ",".join(name for name in STORED if name not in ("error_in_metric", "score_repaired"))
    path.write_text(old + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="name another file, or move this one away"):
        compare(small_network, small_input, BUDGETS[0], output=path, progress=False)
    assert path.read_text(encoding="utf-8") == old + "\n"
