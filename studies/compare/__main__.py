"""Compare plans with every rival at its best, at equal FLOPs and at equal parameters.

A rival gets its candidates fitted by TensorLy, plainly and in our metric, and its ranks by each of
several rules; of these the one with the least error counts for the error, the best one for the
accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

import search
import sekron
from baselines.entrants import ACTIVATION_SVD, IN_METRIC
from sekron.decomposition.decompose import EXACT
from sekron.decomposition.errors import fitted_error
from studies.compare.apart import CALIBRATED, OURS
from studies.compare.contest import budgets_of, contest, options, print_apart, write
from studies.tensorly_time import tensorly_seconds

SHARES = (0.1, 0.15, 0.25, 0.4, 0.6)


def main() -> None:
    """Run the study, print its tables and write all rows beside this file."""
    chosen = options("studies.compare", __doc__, SHARES)
    torch.set_num_threads(chosen.threads)
    budgets = budgets_of(chosen.resources, chosen.shares)
    start = time.perf_counter()
    sides = contest(chosen.data, chosen.path)
    for budget in budgets:
        sides.ours.plan(budget)
    seconds = time.perf_counter() - start
    dense = sides.score(sides.model)
    print(f"{chosen.data}, dense accuracy {dense:.4f}; nothing is trained afterwards")
    frame = sides.compare(budgets, "comparison.csv")
    write(frame, f"{chosen.data}.csv")
    _print_tables(frame)
    print_apart(frame, "score_recalibrated", budgets)
    rivals, _ = tensorly_seconds(sides.model, sides.ours.profile)
    print(
        f"both searches, all ranks and {len(budgets)} budgets: {seconds:.1f} s (from the run "
        f"folder, if they were there); TensorLy, the network once at one set of ranks: "
        + ", ".join(f"{name} {spent:.1f} s" for name, spent in rivals.items())
    )
    _print_refinement(sides.model, sides.ours, budgets)


def _print_tables(frame: pd.DataFrame) -> None:
    """Print, per budget, ours beside the best of every rival's rules for its ranks.

    The error is the plain one, of those that are decomposed in the plain norm; the score is the
    best one in any norm.
    """
    is_in_metric = frame["method"].str.endswith(IN_METRIC)
    ours_exact = frame[(frame["method"] == OURS) & (frame["ranks_by"] == "exact")]
    best_of_both = frame.assign(method=frame["method"].str.removesuffix(IN_METRIC))
    judged = {
        "error": ("min", OURS, frame[~is_in_metric & (frame["method"] != ACTIVATION_SVD)]),
        "score_recalibrated": ("max", CALIBRATED, best_of_both),
    }
    for column, (best, judged_by, part) in judged.items():
        table = part.pivot_table(index="budget", columns="method", values=column, aggfunc=best)
        table[OURS] = ours_exact.set_index("budget")[column]  # the plan that a search returns
        table = table.loc[list(dict.fromkeys(frame["budget"]))]
        rivals = table.drop(columns=[OURS, CALIBRATED], errors="ignore")
        table = table[[name for name in (OURS, CALIBRATED) if name in table]].join(rivals)
        sign = 1 if best == "min" else -1
        holds = sign * table[judged_by] <= (sign * rivals).min(axis=1)
        table["holds"] = holds.map({True: "", False: "lost"})
        print(
            f"\n{column}, {judged_by} against the best of each rival's: {holds.sum()} of "
            f"{len(table)} hold"
        )
        print(table.round(3).to_string())


def _print_refinement(
    model: nn.Module, ours: search.SearchResult, budgets: Sequence[search.Budget]
) -> None:
    """Print what block least squares gain on the sequences of three or more factors."""
    print("\nrefine, 10 sweeps, on the layers with three or more factors by truncation")
    rows = []
    for budget in budgets:
        before, after, start, layers = 0.0, 0.0, time.perf_counter(), 0
        for name, structure in ours.plan(budget).items():
            if structure.length < 3 or structure.family not in EXACT:
                continue
            weight = model.get_submodule(name).weight.detach()
            factors = sekron.decompose(weight, structure)
            layers += 1
            before += fitted_error(weight, factors, structure) ** 2
            after += fitted_error(weight, sekron.refine(weight, factors, structure), structure) ** 2
        rows.append((str(budget), layers, before, after, time.perf_counter() - start))
    frame = pd.DataFrame(rows, columns=["budget", "layers", "before", "after", "seconds"])
    print(frame.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
