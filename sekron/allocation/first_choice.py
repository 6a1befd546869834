"""A first choice that fits: the relaxation, rounded, then improved two layers at a time."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from sekron.allocation.relaxation import ROUNDING, Floats, Program, Relaxed

Choice = NDArray[np.intp]
"""One column per layer."""

EXCHANGED = 50
"""Most columns of a layer that are tried in an exchange, those nearest to the relaxation."""


def rounded(program: Program, relaxed: Relaxed) -> Choice | None:
    """Return the cheapest of the relaxation's columns per layer, or None if they do not fit."""
    basic = relaxed.reduced <= program.tolerance
    order = np.lexsort((program.costs.sum(axis=1), ~basic, program.owner))
    choice = order[program.starts]
    return choice if program.fits(choice) else None


def begun(program: Program) -> tuple[Program, Relaxed, Choice | None] | None:
    """Relax a program, and round the relaxation to a choice.

    Where the choice fits, the program is relaxed once more, without the columns that alone have
    more loss than the choice.

    Returns:
        The program, its relaxation and the choice; None when not even fractions fit.
    """
    relaxed = program.relax()
    if relaxed is None:
        return None
    choice = rounded(program, relaxed)
    if choice is None:
        return program, relaxed, None
    subprogram = program.below(program.loss(choice))
    tighter = subprogram.relax()
    return (program, relaxed, choice) if tighter is None else (subprogram, tighter, choice)


def exchanged(program: Program, relaxed: Relaxed, choice: Choice) -> Choice:
    """Improve a choice that fits until no change of two layers lowers its loss."""
    exchange = _by_cost if program.n_resources == 1 else _pair_by_pair
    while True:
        # No better choice holds a column that is farther from the relaxation than the choice.
        distance = program.loss(choice) - relaxed.optimum + program.tolerance
        keep = relaxed.reduced <= distance
        keep[choice] = True  # despite rounding
        columns = np.flatnonzero(keep)
        columns = columns[np.lexsort((relaxed.reduced[columns], program.owner[columns]))]
        layers = np.split(columns, np.searchsorted(program.owner[columns], range(1, len(choice))))
        better = exchange(program, choice, [layer[:EXCHANGED] for layer in layers])
        if program.loss(better) >= program.loss(choice) - program.tolerance:
            return choice
        choice = better


def _by_cost(program: Program, choice: Choice, layers: list[Choice]) -> Choice:
    """Make the best change of one or two layers of all, again and again, for one resource.

    With the changes sorted by what they cost, the best partner of each is the least loss among
    those that the rest of the room pays.
    """
    choice = choice.copy()
    columns = np.concatenate([*layers, choice])  # to stay is a change too
    owner, costs = program.owner[columns], program.costs[:, 0]
    while True:
        losses = program.losses[columns] - program.losses[choice][owner]
        extra = costs[columns] - costs[choice][owner]
        order = np.argsort(extra, kind="stable")
        paid = np.searchsorted(
            extra[order], 1.0 + ROUNDING - program.used(choice)[0] - extra, side="right"
        )
        partner = _least_before(losses[order], paid)
        for layer in np.unique(owner[order][partner[partner >= 0]]):
            of_layer = owner == layer  # of which one change is made
            others = np.where(of_layer[order], np.inf, losses[order])
            partner[of_layer] = _least_before(others, paid[of_layer])
        together = np.where(partner < 0, np.inf, losses + losses[order][partner])
        first = int(together.argmin())
        second = int(order[partner[first]])
        if not together[first] < -program.tolerance:
            return choice
        choice[owner[[first, second]]] = columns[[first, second]]


def _least_before(values: Floats, ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the place of the least finite value before each end, -1 where there is none."""
    least = np.minimum.accumulate(values)
    is_record = values < np.append(np.inf, least[:-1])
    places = np.maximum.accumulate(np.where(is_record, np.arange(len(values)), -1))
    return np.where(ends > 0, places[ends - 1], -1)


def _pair_by_pair(program: Program, choice: Choice, layers: list[Choice]) -> Choice:
    """Make the best change of every two layers, one pair after the other."""
    better, used = choice.copy(), program.used(choice)
    for i, j in combinations(range(len(choice)), 2):
        if len(layers[i]) == len(layers[j]) == 1:
            continue
        pair = _pair(program, better[[i, j]], used, (layers[i], layers[j]))
        if pair is not None:
            better[[i, j]] = pair
            used = program.used(better)
    return better


def _pair(
    program: Program, chosen: Choice, used: Floats, columns: tuple[Choice, Choice]
) -> tuple[int, int] | None:
    """Return the best columns of two layers while the others stay; None if they are chosen.

    Args:
        program: The candidates to choose from.
        chosen: The columns of the two layers.
        used: What the whole choice uses of every resource.
        columns: Those that either layer may have instead.
    """
    first, second = columns
    room = 1.0 + ROUNDING - used + program.used(chosen)
    losses = program.losses[first][:, None] + program.losses[second]  # (first, second)
    for resource, available in enumerate(room):
        costs = program.costs[:, resource]
        losses[costs[first][:, None] + costs[second] > available] = np.inf
    at = np.unravel_index(int(losses.argmin()), losses.shape)
    if losses[at] >= program.loss(chosen) - program.tolerance:
        return None
    return int(first[at[0]]), int(second[at[1]])
