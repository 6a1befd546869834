"""One candidate per layer under several budgets at once: an integer program, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sekron.allocation.dominance import undominated
from sekron.allocation.first_choice import begun
from sekron.allocation.knapsack import Incumbent, choose
from sekron.allocation.relaxation import Options, Program, Relaxed

TIME_LIMIT_S = 10.0
"""Time for the proof where several budgets all bind; the gap that is then left is reported."""

INFEASIBLE = 2
"""Status of `milp` for a program without a solution."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A choice for every layer, and the proof that no other is better.

    Attributes:
        choice: Index of the chosen candidate of each layer.
        loss: Sum of the chosen losses.
        gap: `(loss − bound) / loss` that the proof leaves open; 0 where the choice is optimal.
    """

    choice: tuple[int, ...]
    loss: float
    gap: float


def allocate(layers: Sequence[Options], capacities: Sequence[float]) -> Allocation | None:
    """Choose one candidate per layer with the least total loss within the capacities.

    The choice `i` minimises `Σₗ losses[l, iₗ]` where `Σₗ costs[l, iₗ] ≤ capacities`.

    What another candidate of its layer beats is dropped. The relaxation prices the others: one
    whose reduced cost exceeds the distance between the relaxation and a known solution cannot be in
    a better one. So the exact search sees few candidates and still proves optimality over all.

    Args:
        layers: The candidates of each layer.
        capacities: Limit of every resource, in the units of the costs.

    Returns:
        The best choice, or None when nothing fits, or nothing that fits was found in time where
        several budgets all bind.
    """
    if min(capacities, default=0.0) < 0:
        return None
    if not (layers and capacities):
        choice = tuple(int(layer.losses.argmin()) for layer in layers)
        return Allocation(choice, sum(float(layer.losses.min()) for layer in layers), 0.0)
    kept = [undominated(layer.losses, layer.costs) for layer in layers]
    few = [Options(o.losses[rows], o.costs[rows]) for o, rows in zip(layers, kept, strict=True)]
    found = _solved(Program.of(few, np.asarray(capacities, dtype=float)))
    if found is None:
        return None
    pairs = zip(kept, found.choice, strict=True)
    return replace(found, choice=tuple(int(rows[row]) for rows, row in pairs))


def _solved(program: Program) -> Allocation | None:
    """Return the best choice of a program, or None when none was found."""
    if not program.fits_alone():
        return None
    for resource in range(program.n_resources):
        start = begun(replace(program, costs=program.costs[:, [resource]]))
        assert start is not None  # each budget can be met without the others
        incumbent = choose(*start)
        if incumbent.columns is not None and program.fits(incumbent.columns):
            # The other budgets do not bind.
            return _allocation(start[0], incumbent)
    start = begun(program)
    if start is None:
        return None
    program, relaxed, _ = start
    incumbent = choose(*start)
    if (
        incumbent.columns is None
        or program.loss(incumbent.columns) > incumbent.bound + program.tolerance
    ):
        incumbent = _proven(program, relaxed, incumbent)
    return None if incumbent.columns is None else _allocation(program, incumbent)


def _allocation(program: Program, incumbent: Incumbent) -> Allocation:
    assert incumbent.columns is not None
    loss = program.loss(incumbent.columns)
    gap = (loss - incumbent.bound) / loss if loss > incumbent.bound + program.tolerance else 0.0
    columns = zip(incumbent.columns, program.starts, strict=True)
    return Allocation(tuple(int(column - start) for column, start in columns), loss, gap)


def _proven(program: Program, relaxed: Relaxed, incumbent: Incumbent) -> Incumbent:
    """Let HiGHS look for a choice that is better than the incumbent."""
    loss = np.inf if incumbent.columns is None else program.loss(incumbent.columns)
    solution = _integer_program(
        program, relaxed.reduced <= loss - relaxed.optimum + program.tolerance
    )
    bound = max(incumbent.bound, solution.bound)
    if solution.columns is None or program.loss(solution.columns) >= loss:
        return Incumbent(incumbent.columns, min(bound, loss))
    return Incumbent(solution.columns, bound)


def _integer_program(program: Program, keep: NDArray[np.bool_]) -> Incumbent:
    """Solve the program over some of its columns with HiGHS."""
    columns = np.flatnonzero(keep)
    n = len(columns)
    picks = csr_array(
        (np.ones(n), (program.owner[columns], np.arange(n))), shape=(len(program.starts), n)
    )
    room = np.ones(program.n_resources)
    unit = program.scale / 1e4  # HiGHS stops at fixed absolute tolerances
    while True:
        result = milp(
            program.losses[columns] / unit,
            constraints=[
                LinearConstraint(picks, 1.0, 1.0),
                LinearConstraint(1e3 * program.costs[columns].T, -np.inf, 1e3 * room),
            ],
            integrality=np.ones(n),
            bounds=Bounds(0.0, 1.0),
            options={"mip_rel_gap": 0.0, "time_limit": TIME_LIMIT_S},
        )
        if result.x is None:
            return Incumbent(None, np.inf if result.status == INFEASIBLE else -np.inf)
        choice = columns[result.x > 0.5]
        used = program.used(choice)
        if program.fits(choice):
            if result.status == 0 or result.mip_dual_bound is None:
                return Incumbent(choice, program.loss(choice))
            return Incumbent(choice, float(result.mip_dual_bound) * unit)
        room = room - np.maximum(used - 1.0, 0.0)  # the excess is below the solver's tolerance
