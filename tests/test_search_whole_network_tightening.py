"""The rule by which a limit of latency is tightened after a plan has missed it."""

from dataclasses import replace

import pytest

from search import Budget
from search.whole_network.tightening import next_share, tightened


def test_what_the_estimate_did_not_foresee_is_taken_off():
    assert next_share(0.0, missed=0.1, unexplained=0.07, is_again=False) == 0.07
    assert next_share(0.02, missed=0.1, unexplained=0.07, is_again=False) == 0.07


def test_a_share_never_shrinks():
    for unexplained in (-0.3, 0.0, 0.04):
        for is_again in (False, True):
            assert next_share(0.05, -0.2, unexplained, is_again) == 0.05


def test_a_plan_that_comes_again_tightens_by_what_it_misses():
    share, rounds = 0.0, 0
    while share < 0.5:  # it would never end if the share stood still
        share, rounds = next_share(share, missed=0.125, unexplained=0.0, is_again=True), rounds + 1
    assert rounds == 4


@pytest.mark.parametrize(
    "budget", [Budget(latency=0.6), Budget(latency_ms=12.0), Budget(speedup=1 / 0.6)], ids=str
)
def test_all_limits_of_latency_are_tightened_alike(budget):
    limit = tightened(budget, share=0.1, network_ms=20.0).limit_ms(20.0)
    assert limit == pytest.approx(0.5 * 20.0)


def test_the_tightest_limit_counts_and_others_stay():
    budget = Budget(flops=0.3, params=1000, latency=0.9, latency_ms=12.0)
    tighter = tightened(budget, share=0.25, network_ms=20.0)
    assert tighter.latency_ms == pytest.approx(0.35 * 20.0)
    assert replace(tighter, latency_ms=None) == Budget(flops=0.3, params=1000)


@pytest.mark.parametrize(
    ("budget", "share"), [(Budget(flops=0.5), 0.2), (Budget(latency=0.5), 0.0)], ids=str
)
def test_what_needs_no_tightening_stays_as_it_is(budget, share):
    assert tightened(budget, share, 20.0) == budget


def test_a_limit_stays_positive():
    assert 0.0 < tightened(Budget(latency=0.5), 0.7, 20.0).latency_ms < 1e-3
