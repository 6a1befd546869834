"""What a budget is, and how it is written."""

import math

import pytest

from search import Budget, InfeasibleBudget
from search.cli.sources import parse_limit


@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize(
    ("value", "limit"),
    [(0.5, 500), (1.0, 1001), (0.999, 999), (1, 1), (10**12, 10**12), (None, None)],
)
def test_a_float_is_a_share_and_an_int_a_number(resource, value, limit):
    assert Budget(**{resource: value}).limit(resource, dense=1001) == limit


@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0.0, ValueError, r"as a share must be in \(0, 1\], got 0.0; an absolute number is an int"),
        (1.5, ValueError, r"as a share must be in \(0, 1\], got 1.5"),
        (-0.1, ValueError, r"as a share must be in \(0, 1\], got -0.1"),
        (float("nan"), ValueError, r"as a share must be in \(0, 1\], got nan"),
        (0, ValueError, "must be at least 1, got 0"),
        (-5, ValueError, "must be at least 1, got -5"),
        (True, TypeError, r"must be a float \(share of dense\) or an int \(absolute\), got True"),
        ("50%", TypeError, "got '50%'"),
    ],
)
def test_anything_else_is_refused(resource, value, error, message):
    with pytest.raises(error, match=f"^`{resource}` .*{message}"):
        Budget(**{resource: value})


@pytest.mark.parametrize(
    ("limits", "limit_ms"),
    [
        ({}, None),
        ({"flops": 0.5, "params": 7}, None),
        ({"latency": 0.5}, 4.0),
        ({"latency": 1}, 8.0),
        ({"latency_ms": 3}, 3.0),
        ({"latency_ms": 80.5}, 80.5),
        ({"speedup": 1}, 8.0),
        ({"speedup": 2.5}, 3.2),
        ({"latency": 0.5, "latency_ms": 5.0, "speedup": 4}, 2.0),
        ({"latency": 0.125, "latency_ms": 5.0, "flops": 0.5}, 1.0),
    ],
    ids=str,
)
def test_the_least_of_the_limits_of_latency_counts(limits, limit_ms):
    assert Budget(**limits).limit_ms(8.0) == limit_ms
    assert Budget(**limits).is_clocked == (limit_ms is not None)


@pytest.mark.parametrize("dense_ms", [0.37, 8.0, 1234.5])
def test_three_ways_to_say_the_same_latency(dense_ms):
    same = [Budget(latency=0.625), Budget(speedup=1.6), Budget(latency_ms=0.625 * dense_ms)]
    assert [b.limit_ms(dense_ms) for b in same] == pytest.approx([0.625 * dense_ms] * 3)


SHARE = r"as a share must be in \(0, 1\], got"


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        *(("latency", x, ValueError, f"{SHARE} {x}") for x in (0.0, 0, -0.1, 1.01, 2)),
        *(("latency_ms", x, ValueError, f"must be positive, got {x}") for x in (0.0, 0, -3)),
        *(("speedup", x, ValueError, f"must be at least 1, got {x}") for x in (0, 0.99, -2.0)),
        ("latency", float("nan"), ValueError, f"{SHARE} nan"),
        ("latency_ms", float("nan"), ValueError, "must be positive, got nan"),
        ("speedup", float("nan"), ValueError, "must be at least 1, got nan"),
        ("latency", float("inf"), ValueError, f"{SHARE} inf"),
        ("latency_ms", float("inf"), ValueError, "must be positive, got inf"),
        ("speedup", float("inf"), ValueError, "must be at least 1, got inf"),
        *(
            (name, value, TypeError, f"must be a number, got {value!r}")
            for name in ("latency", "latency_ms", "speedup", "min_score")
            for value in (True, "50%")
        ),
        *(("min_score", x, ValueError, f"must be finite, got {x}") for x in (math.nan, math.inf)),
    ],
)
def test_no_other_latency_is_accepted(name, value, error, message):
    with pytest.raises(error, match=f"^`{name}` {message}"):
        Budget(**{name: value})


def test_only_flops_and_parameters_are_known_without_running():
    assert Budget(flops=0.5, params=3).is_static
    for other in ({"latency": 0.5}, {"latency_ms": 2}, {"speedup": 2}, {"min_score": 0}):
        assert not Budget(flops=0.5, **other).is_static


def test_reads_like_a_sentence():
    assert str(Budget()) == "no limit"
    assert str(Budget(latency=0.5)) == "latency ≤ 50.0%"
    assert str(Budget(latency_ms=3)) == "latency ≤ 3 ms"
    assert str(Budget(speedup=1.5)) == "speedup ≥ 1.5"
    every = Budget(0.5, 0.25, 0.5, 2.5, 2, -0.75)
    assert str(every) == (
        "flops ≤ 50.0%, params ≤ 25.0%, latency ≤ 50.0%, latency ≤ 2.5 ms, speedup ≥ 2, "
        "score ≥ -0.75"
    )
    assert str(Budget(flops=0.5)) == "flops ≤ 50.0%"
    assert str(Budget(flops=1_000_000, params=0.25)) == "flops ≤ 1,000,000, params ≤ 25.0%"


def test_an_infeasible_budget_is_a_value_error():
    assert issubclass(InfeasibleBudget, ValueError)


@pytest.mark.parametrize(
    ("text", "limit"), [("50%", 0.5), ("0.5", 0.5), ("1", 1), ("900000", 900000)]
)
def test_limits_as_text(text, limit):
    found = parse_limit(text)
    assert found == limit
    assert type(found) is type(limit)


@pytest.mark.parametrize("text", ["", "%", "half", "50 %%", "1,000"])
def test_text_that_is_no_limit(text):
    with pytest.raises(ValueError, match=f"a limit reads '50%', '0.5' or '900000', got '{text}'"):
        parse_limit(text)


def test_budgets_of_equal_limits_have_one_digest():
    budgets = [
        Budget(),
        Budget(flops=0.5),
        Budget(params=0.5),
        Budget(flops=1),
        Budget(flops=1.0),
        Budget(flops=0.5000001),
        Budget(flops=0.5, min_score=0.9),
    ]
    assert len({budget.digest for budget in budgets}) == len(budgets)
    assert Budget(0.5).digest == Budget(flops=0.5, latency=None).digest
    assert Budget(latency_ms=8).digest == Budget(latency_ms=8.0).digest


def test_the_limits_of_a_budget_have_no_goal():
    assert Budget(flops=0.5, min_score=0.9).limits == Budget(flops=0.5)
    assert Budget(latency=0.5).limits == Budget(latency=0.5)


def test_a_share_that_was_divided_is_the_number_again():
    for dense in (3, 49, 1000, 41_217_344, 10**15 + 1):
        for number in {1, dense // 3, dense // 2 + 1, dense - 1, dense}:
            assert Budget(flops=number / dense).limit("flops", dense) == number


def test_a_number_that_is_too_large_for_a_time_is_refused():
    with pytest.raises(ValueError, match="`latency_ms` must be finite, got 1000"):
        Budget(latency_ms=10**400)
