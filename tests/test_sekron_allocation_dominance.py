"""What is dropped before the choice across layers, against comparing every pair."""

import numpy as np
import pytest

from sekron.allocation.dominance import undominated


def beaten(i, losses, costs):
    """Whether another row is nowhere worse than row i; of equal rows the first one stays."""
    for k in range(len(losses)):
        equal = losses[k] == losses[i] and (costs[k] == costs[i]).all()
        if losses[k] <= losses[i] and (costs[k] <= costs[i]).all() and (not equal or k < i):
            return True
    return False


@pytest.mark.parametrize("n_resources", [1, 2, 3])
def test_every_dropped_row_is_beaten(n_resources):
    for seed in range(50):
        random = np.random.default_rng([seed, n_resources])
        n = random.integers(1, 40)
        losses = random.integers(0, 12, n).astype(float)
        costs = random.integers(0, 8, (n, n_resources)).astype(float)
        kept = undominated(losses, costs)
        expected = [i for i in range(n) if not beaten(i, losses, costs)]
        assert (np.diff(costs[kept, 0]) >= 0).all()
        if n_resources == 1:
            assert sorted(kept) == expected
        else:
            dropped = set(range(n)) - set(kept.tolist())
            assert not dropped & set(expected)


def test_most_of_many_are_dropped():
    random = np.random.default_rng(0)
    losses, costs = random.random(10_000), random.random((10_000, 2))
    assert len(undominated(losses, costs)) < 500


@pytest.mark.parametrize("spread", [0.0, 1.0, 12.0])
def test_of_many_rows_under_one_budget_exactly_those_stay_that_nothing_beats(spread):
    random = np.random.default_rng(0)
    costs = np.exp(spread * random.random(5_000)).round(1)
    losses = (random.random(5_000) / costs).round(4)
    expected, least = [], np.inf
    for row in sorted(range(5_000), key=lambda row: (costs[row], losses[row], row)):
        if losses[row] < least:
            expected.append(row)
            least = losses[row]
    assert undominated(losses, costs[:, None]).tolist() == expected
