"""One candidate per layer under several budgets at once: an integer program, solved exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from sekron.allocation.knapsack import Found, choose
from sekron.allocation.relaxation import Options, Program, Relaxed
from sekron.allocation.start import begun

TIME_LIMIT_S = 10.0
"""For the proof under several budgets that all bind; the gap then left is reported."""

INFEASIBLE = 2
"""What `milp` says of a program without a solution."""


@dataclass(frozen=True, slots=True)
class Allocation:
    """A choice for every layer, and the proof that no other is better.

    Attributes:
        choice: Index of the chosen candidate of each layer.
        loss: Sum of the chosen losses.
        gap: `(loss − bound) / loss` that could not be closed; 0 is proven optimal.
    """

    choice: tuple[int, ...]
    loss: float
    gap: float


def allocate(layers: Sequence[Options], capacities: Sequence[float]) -> Allocation | None:
    """Choose one candidate per layer with the least total loss within the capacities.

    The relaxation prices every candidate; one whose reduced cost exceeds the distance between
    the relaxation and a known solution cannot be in a better one. So the exact search sees few
    candidates and still proves optimality over all of them.

    Args:
        layers: The candidates.
        capacities: What may be used of every resource, in the units of the costs.

    Returns:
        The best choice, or None when nothing fits.
    """
    if not layers:
        return Allocation((), 0.0, 0.0) if min(capacities, default=0.0) >= 0 else None
    program = Program.of(layers, np.asarray(capacities, dtype=float))
    if not capacities:
        return _allocation(program, Found(program.cheapest(np.zeros(0)), 0.0))
    if min(capacities) < 0 or not program.fits_alone():
        return None
    for resource in range(program.n_resources):
        single = begun(replace(program, costs=program.costs[:, [resource]]))
        assert single is not None  # each budget alone can be met
        alone = choose(*single)
        if alone.columns is not None and program.fits(alone.columns):
            # The other budgets do not bind.
            return _allocation(single[0], alone)
    start = begun(program)
    if start is None:
        return None
    program, relaxed, _ = start
    found = choose(*start)
    if found.columns is None or program.loss(found.columns) > found.bound + program.tolerance:
        found = _proven(program, relaxed, found)
    return None if found.columns is None else _allocation(program, found)


def _allocation(program: Program, found: Found) -> Allocation:
    assert found.columns is not None
    loss = program.loss(found.columns)
    gap = (loss - found.bound) / loss if loss > found.bound + program.tolerance else 0.0
    columns = zip(found.columns, program.starts, strict=True)
    return Allocation(tuple(int(column - start) for column, start in columns), loss, gap)


def _proven(program: Program, relaxed: Relaxed, known: Found) -> Found:
    """Let HiGHS look for what is better than the choice that is known."""
    loss = np.inf if known.columns is None else program.loss(known.columns)
    found = _integer_program(program, relaxed.reduced <= loss - relaxed.optimum + program.tolerance)
    bound = max(known.bound, found.bound)
    if found.columns is None or program.loss(found.columns) >= loss:
        return Found(known.columns, min(bound, loss))
    return Found(found.columns, bound)


def _integer_program(program: Program, keep: NDArray[np.bool_]) -> Found:
    """Solve with HiGHS over some columns."""
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
            return Found(None, np.inf if result.status == INFEASIBLE else -np.inf)
        chosen = columns[result.x > 0.5]
        used = program.used(chosen)
        if program.fits(chosen):
            if result.status == 0 or result.mip_dual_bound is None:
                return Found(chosen, program.loss(chosen))
            return Found(chosen, float(result.mip_dual_bound) * unit)
        room = room - np.maximum(used - 1.0, 0.0)  # over by less than the solver's tolerance
