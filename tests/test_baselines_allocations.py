"""Every rule for the ranks against trying every choice, or every threshold."""

from itertools import product

import numpy as np
import pytest

from baselines import ALLOCATIONS
from baselines.allocations import exact, greedy, lagrangian, minimax, uniform
from sekron.allocation.relaxation import Options

SEEDS = range(60)
every_rule = pytest.mark.parametrize("rule", ALLOCATIONS.values(), ids=ALLOCATIONS)
one_or_two_resources = pytest.mark.parametrize("n_resources", [1, 2])


def instance(seed, n_resources):
    """Two to four layers of up to six candidates, dense last; from no capacity to plenty."""
    random = np.random.default_rng([seed, n_resources])
    layers = []
    for _ in range(random.integers(2, 5)):
        n = random.integers(1, 6)
        costs = random.integers(0, 20, (n, n_resources))
        dense = [20.0] * n_resources
        layers.append(Options(np.append(random.random(n), 0.0), np.vstack((costs, dense))))
    return layers, [float(c) for c in random.integers(0, 18 * len(layers), n_resources)]


def losses(layers, choice):
    return [layer.losses[i] for layer, i in zip(layers, choice, strict=True)]


def fits(layers, choice, capacities):
    used = sum(layer.costs[i] for layer, i in zip(layers, choice, strict=True))
    return bool((used <= capacities).all())


def dense_choice(layers):
    return tuple(len(layer.losses) - 1 for layer in layers)


def fitting(layers, capacities):
    every = product(*(range(len(layer.losses)) for layer in layers))
    return [choice for choice in every if fits(layers, choice, capacities)]


def best_threshold(layers, capacities):
    """The least loss over all shares at which the choice changes, or None."""
    shares = sorted({float((cost / 20.0).max()) for layer in layers for cost in layer.costs})
    best = None
    for share in shares:
        choice = []
        for layer in layers:
            within = [i for i, cost in enumerate(layer.costs) if (cost / 20.0 <= share).all()]
            choice += [min(within, key=lambda i, layer=layer: layer.losses[i])] if within else []
        if len(choice) == len(layers) and fits(layers, choice, capacities):
            loss = sum(losses(layers, choice))
            best = loss if best is None else min(best, loss)
    return best


@every_rule
@one_or_two_resources
def test_what_is_chosen_fits_or_is_none(rule, n_resources):
    outcomes = set()
    for seed in SEEDS:
        layers, capacities = instance(seed, n_resources)
        choice = rule(layers, capacities)
        outcomes.add(choice is None)
        assert choice is None or fits(layers, choice, capacities), seed
    assert outcomes == {True, False}  # both happened


@pytest.mark.parametrize("rule", [uniform, minimax, greedy, lagrangian])
@one_or_two_resources
def test_no_rule_has_less_loss_than_the_exact_one(rule, n_resources):
    compared = 0
    for seed in SEEDS:
        layers, capacities = instance(seed, n_resources)
        choice = rule(layers, capacities)
        if choice is not None:
            least = sum(losses(layers, exact(layers, capacities)))
            assert least <= sum(losses(layers, choice)) + 1e-12, seed
            compared += 1
    assert compared > 10


@one_or_two_resources
def test_exact_is_the_least_loss_of_all_choices(n_resources):
    for seed in SEEDS:
        layers, capacities = instance(seed, n_resources)
        expected = min((sum(losses(layers, c)) for c in fitting(layers, capacities)), default=None)
        choice = exact(layers, capacities)
        found = None if choice is None else sum(losses(layers, choice))
        assert found == pytest.approx(expected), seed


@one_or_two_resources
def test_uniform_is_the_best_of_all_shares(n_resources):
    wrong = {}
    for seed in range(300):
        layers, capacities = instance(seed, n_resources)
        choice, expected = uniform(layers, capacities), best_threshold(layers, capacities)
        found = None if choice is None else sum(losses(layers, choice))
        if found != pytest.approx(expected):
            wrong[seed] = found, expected
    assert wrong == {}


def test_minimax_has_the_least_largest_loss():
    for seed in SEEDS:
        layers, capacities = instance(seed, 1)
        choice = minimax(layers, capacities)
        expected = min((max(losses(layers, c)) for c in fitting(layers, capacities)), default=None)
        found = None if choice is None else max(losses(layers, choice))
        assert found == pytest.approx(expected), seed


def test_minimax_spends_nothing_below_its_bound():
    layer = Options(np.array([0.5, 0.4, 0.0]), np.array([[1.0], [3.0], [9.0]]))
    coarse = Options(np.array([0.5, 0.0]), np.array([[2.0], [9.0]]))
    assert minimax([layer, coarse], [5.0]) == (0, 0)  # (1, 0) fits too


@pytest.mark.parametrize("rule", [exact, minimax, greedy, lagrangian])
def test_whatever_fits_one_resource_is_found(rule):  # `uniform` may find no share
    for seed in SEEDS:
        layers, capacities = instance(seed, 1)
        assert (rule(layers, capacities) is None) == (not fitting(layers, capacities)), seed


def test_a_price_finds_what_is_best_at_its_own_cost():
    below = 0
    for seed in SEEDS:
        layers, capacities = instance(seed, 1)
        choice = lagrangian(layers, capacities)
        if choice is not None:
            used = [sum(float(layer.costs[i][0]) for layer, i in zip(layers, choice, strict=True))]
            found = sum(losses(layers, choice))
            assert found == pytest.approx(sum(losses(layers, exact(layers, used)))), seed
            below += found > sum(losses(layers, exact(layers, capacities))) + 1e-9
    assert below > 5  # it leaves some of the budget where no price spends it


def test_greedy_takes_the_best_prices_until_the_first_fit():
    for seed in SEEDS:  # with one candidate beside the dense one, the order of prices is all
        random = np.random.default_rng(seed)
        costs, prices = random.integers(1, 19, 5), random.permutation(5) + 1.0
        layers = [
            Options(np.array([price * (20.0 - cost), 0.0]), np.array([[cost], [20.0]]))
            for cost, price in zip(costs, prices, strict=True)
        ]
        capacities = [float(random.integers(sum(costs), 101))]
        expected = list(dense_choice(layers))
        for layer in np.argsort(prices):
            if not fits(layers, expected, capacities):
                expected[layer] = 0
        assert greedy(layers, capacities) == tuple(expected), seed


def test_greedy_goes_back_on_no_step():
    # the large step of the first layer alone would do, at less loss
    first = Options(np.array([1.0, 0.0]), np.array([[0.0], [10.0]]))
    second = Options(np.array([0.05, 0.0]), np.array([[9.0], [10.0]]))
    assert greedy([first, second], [10.0]) == (0, 0)
    assert exact([first, second], [10.0]) == (0, 1)


@every_rule
@one_or_two_resources
def test_plenty_leaves_everything_dense(rule, n_resources):
    for seed in range(10):
        layers, _ = instance(seed, n_resources)
        dense = [20.0 * len(layers)] * n_resources
        assert rule(layers, dense) == dense_choice(layers), seed


@every_rule
@one_or_two_resources
def test_less_than_the_least_admits_nothing(rule, n_resources):
    for seed in range(10):
        layers, _ = instance(seed, n_resources)
        least = sum(layer.costs[:, 0].min() for layer in layers)
        capacities = [float(least) - 1.0, *[1000.0] * (n_resources - 1)]
        assert rule(layers, capacities) is None, seed


@every_rule
def test_of_no_layers_nothing_is_chosen(rule):
    assert rule([], [0.0]) == ()
    assert rule([], [-1.0]) is None


def test_a_layer_that_a_method_does_not_know_is_dense_at_any_share():
    known = Options(np.array([3.0, 1.0, 0.0]), np.array([[2.0], [5.0], [10.0]]))
    unknown = Options(np.array([0.0]), np.array([[10.0]]))
    assert uniform([known, unknown], [15.0]) == (1, 0)
    assert uniform([known, unknown], [11.0]) is None
