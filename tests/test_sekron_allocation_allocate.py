"""The choice across layers against trying every choice."""

from itertools import product

import numpy as np
import pytest

from sekron.allocation.allocate import allocate
from sekron.allocation.relaxation import Options


def instance(seed, n_resources, kind):
    """Layers with up to six candidates, and capacities from too little to plenty."""
    random = np.random.default_rng([seed, n_resources])
    layers = []
    for _ in range(random.integers(1, 6)):
        n = random.integers(1, 7)
        losses = random.random(n)
        if kind == "ties":
            losses = random.integers(0, 4, n).astype(float)
        if kind == "wide":
            losses = 10.0 ** random.uniform(-12.0, 2.0, n)
        costs = random.integers(0, 10, (n, n_resources)).astype(float)
        layers.append(Options(losses, costs))
    if kind == "equal layers":
        layers = [layers[0]] * len(layers)
    if kind == "with dense":
        layers = [
            Options(np.append(layer.losses, 0.0), np.vstack((layer.costs, [20.0] * n_resources)))
            for layer in layers
        ]
    return layers, [float(c) for c in random.integers(0, 6 * len(layers), n_resources)]


def best_loss(layers, capacities):
    """The least loss of all choices that fit, or None."""
    best = None
    for choice in product(*(range(len(layer.losses)) for layer in layers)):
        used = sum(layer.costs[i] for layer, i in zip(layers, choice, strict=True))
        if (used <= capacities).all():
            loss = sum(layer.losses[i] for layer, i in zip(layers, choice, strict=True))
            best = loss if best is None else min(best, loss)
    return best


@pytest.mark.parametrize("kind", ["random", "ties", "wide", "equal layers", "with dense"])
@pytest.mark.parametrize("n_resources", [1, 2, 3])
def test_equals_trying_every_choice(n_resources, kind):
    outcomes = set()
    for seed in range(25):
        layers, capacities = instance(seed, n_resources, kind)
        expected, found = best_loss(layers, capacities), allocate(layers, capacities)
        outcomes.add(found is None)
        assert (found is None) == (expected is None), seed
        if found is not None:
            chosen = list(zip(layers, found.choice, strict=True))
            used = sum(layer.costs[i] for layer, i in chosen)
            assert (used <= capacities).all(), seed
            assert found.loss == pytest.approx(expected, rel=1e-11, abs=0.0), seed
            assert found.loss == pytest.approx(sum(layer.losses[i] for layer, i in chosen))
            assert found.gap == 0.0, seed
    assert outcomes == {True, False}  # both happened


HALVES = Options(np.array([3.0, 1.0, 0.0]), np.array([[0.0], [2.0], [5.0]]))


@pytest.mark.parametrize(
    ("capacities", "choice"),
    [([], (2, 2)), ([10.0], (2, 2)), ([7.0], (1, 2)), ([4.0], (1, 1)), ([0.0], (0, 0))],
    ids=str,
)
def test_known_choices(capacities, choice):
    found = allocate([HALVES, HALVES], capacities)
    assert tuple(sorted(found.choice)) == choice  # equal layers can be exchanged
    assert found.gap == 0.0


def test_no_capacity_admits_only_what_costs_nothing():
    paid = Options(np.array([0.0]), np.array([[1.0]]))
    assert allocate([HALVES, paid], [0.0]) is None
    assert allocate([HALVES, HALVES], [0.0]).loss == 6.0


def test_less_than_no_capacity_admits_nothing():
    assert allocate([HALVES], [-1.0]) is None


def test_limits_that_can_be_met_one_by_one_only():
    layer = Options(np.zeros(2), np.array([[0.0, 9.0], [9.0, 0.0]]))
    assert allocate([layer], [5.0, 5.0]) is None
    assert allocate([layer], [5.0, 9.0]).choice == (0,)


def test_a_limit_that_is_met_exactly_is_met():
    # shares of capacities are not exact: 3 × 0.1 > 0.3
    layer = Options(np.array([1.0, 0.0]), np.array([[0.0], [0.1]]))
    assert allocate([layer] * 3, [0.1 + 0.1 + 0.1]).loss == 0.0


@pytest.mark.parametrize("n_resources", [1, 2])
def test_many_equal_layers_are_proven_too(n_resources):
    # candidates that can be exchanged at no loss stall branch and bound
    random = np.random.default_rng(0)
    costs = np.sort(random.integers(1, 1000, (40, n_resources)), axis=0).astype(float)
    losses = np.sort(random.random(40))[::-1]
    found = allocate([Options(losses, costs)] * 20, [9000.0] * n_resources)
    assert found.gap == 0.0
    # equal layers: the order of the choices does not matter, and a single change does not help
    used = sum(costs[i] for i in found.choice)
    for i in set(found.choice):
        better = [k for k in range(40) if losses[k] < losses[i]]
        assert all((used - costs[i] + costs[k] > 9000.0).any() for k in better)


def test_small_and_large_losses_are_told_apart():
    small = Options(np.array([1e-9, 0.0]), np.array([[0.0], [1.0]]))
    large = Options(np.array([1e3, 0.0]), np.array([[0.0], [1.0]]))
    assert allocate([small, large], [1.0]).choice == (0, 1)
    assert allocate([small], [1.0]).choice == (1,)


@pytest.mark.parametrize("tiny", [1e-3, 1e-5, 1e-7])
@pytest.mark.parametrize("n_resources", [1, 2])
def test_a_tiny_saving_may_cost_a_large_loss(n_resources, tiny):
    outcomes = set()
    for seed in range(15):
        layers, _ = instance(seed, n_resources, "random")
        layers = [Options(layer.losses, 1.0 + tiny * layer.costs) for layer in layers]
        random = np.random.default_rng(seed)
        capacities = [len(layers) + tiny * c for c in random.integers(0, 20, n_resources)]
        best, found = (
            best_loss(layers, [c * (1 + 1e-12) for c in capacities]),
            allocate(layers, capacities),
        )
        outcomes.add(best is None)
        assert (found is None) == (best is None)
        if found is not None:
            assert found.loss == pytest.approx(best, rel=1e-8)
    assert outcomes == {True, False}


def test_limits_that_exclude_each_other_are_told_though_the_solvers_presolve_gives_up():
    losses = [[0.6863512391237969, 0.0], [0.0], [0.9371738178698432, 0.8829265475828667, 0.0]]
    costs = [
        [[81920.0, 0.12761792286004492], [393216.0, 0.017555998056195676]],
        [[786432.0, 0.026058994990307838]],
        [[32768.0, 0.13323032298761972], [65536.0, 0.13323032298761972], [1048576.0, 0.0315869984]],
    ]
    layers = [Options(np.array(o), np.array(c)) for o, c in zip(losses, costs, strict=True)]
    assert allocate(layers, [1003520.0, 0.1440422905650532]) is None
