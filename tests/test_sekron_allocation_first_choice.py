"""Exchanges of two layers: none is left that lowers the loss, whichever way they are found."""

from itertools import combinations, product

import numpy as np
import pytest

from sekron.allocation.first_choice import begun, exchanged
from sekron.allocation.relaxation import Options, Program


def program_of(seed, n_layers, n_resources):
    """A program, and a choice that fits it."""
    draw = np.random.default_rng(seed)
    layers = []
    for _ in range(n_layers):
        costs = draw.uniform(0.0, 1.0, (draw.integers(1, 9), n_resources)).round(2)
        losses = (np.exp(-3.0 * costs.mean(axis=1)) * draw.uniform(0.9, 1.1, len(costs))).round(2)
        layers.append(Options(losses, costs))
    least = sum(layer.costs.min(axis=0) for layer in layers)
    most = sum(layer.costs.max(axis=0) for layer in layers)
    rows = [int(layer.costs.sum(axis=1).argmin()) for layer in layers]
    cheap = sum(layer.costs[row] for layer, row in zip(layers, rows, strict=True))
    program = Program.of(layers, np.maximum(least + 0.4 * (most - least), cheap))
    return program, program.starts + rows


def least_of_pairs(program, choice):
    """The least loss after any change of one or two layers, all of them tried."""
    columns = [np.flatnonzero(program.owner == layer) for layer in range(len(choice))]
    least = program.loss(choice)
    for i, j in combinations(range(len(choice)), 2):
        for first, second in product(columns[i], columns[j]):
            changed = choice.copy()
            changed[[i, j]] = first, second
            if program.fits(changed):
                least = min(least, program.loss(changed))
    return least


@pytest.mark.parametrize("n_resources", [1, 2])
@pytest.mark.parametrize("n_layers", [2, 7])
@pytest.mark.parametrize("seed", range(12))
def test_no_change_of_two_layers_is_better_than_what_is_found(seed, n_layers, n_resources):
    program, start = program_of(seed, n_layers, n_resources)
    _, relaxed, _ = begun(program)
    found = exchanged(program, relaxed, start)
    assert program.fits(found)
    assert program.loss(found) <= least_of_pairs(program, found) + program.tolerance


def test_the_partner_of_a_change_is_another_layer():
    # The costly column of the first layer would pay with a saving of that same layer.
    first = Options(np.array([1.0, 0.9, 0.0]), np.array([[0.5], [0.2], [0.9]]))
    second = Options(np.array([0.1]), np.array([[0.1]]))
    program = Program.of([first, second], np.array([0.7]))
    _, relaxed, _ = begun(program)
    assert list(exchanged(program, relaxed, np.array([0, 3]))) == [1, 3]


def test_a_choice_that_is_the_best_stays():
    program, start = program_of(3, 5, 1)
    _, relaxed, _ = begun(program)
    found = exchanged(program, relaxed, start)
    assert np.array_equal(exchanged(program, relaxed, found), found)
