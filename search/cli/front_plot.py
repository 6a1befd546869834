"""A front as a picture of letters, which stands in any terminal and in any file."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from rich.text import Text

WIDTH, HEIGHT = 44, 12
"""Letters of the picture between its axes."""

PLAN, BEST, LIMIT = "o", "*", ":"


def front_plot(front: pd.DataFrame, best: int | None, limits: Mapping[str, float]) -> Text:
    """Draw the error of plans over their share of the FLOPs.

    Args:
        front: As `SearchResult.pareto_front` returns it.
        best: Row of the plan for the budget of the search, or None.
        limits: As `SearchResult.limits` returns them.
    """
    ratios, errors = front["flops_ratio"].tolist(), front["error"].tolist()
    least = min(ratios)
    width, most = max(ratios) - least, max(errors)
    dense = front["flops"].iloc[-1] / ratios[-1]

    def column(ratio: float) -> int:
        return round((ratio - least) / width * (WIDTH - 1)) if width > 0.0 else 0

    grid = [[" "] * WIDTH for _ in range(HEIGHT)]
    limit = limits.get("flops", math.nan) / dense
    if least <= limit <= least + width:
        for line in grid:
            line[column(limit)] = LIMIT
    order = [row for row in range(len(front)) if row != best] + ([] if best is None else [best])
    for row in order:  # the best one on top
        height = round(errors[row] / most * (HEIGHT - 1)) if most > 0.0 else 0
        grid[HEIGHT - 1 - height][column(ratios[row])] = BEST if row == best else PLAN
    return _framed(grid, least, least + width, most)


def _framed(grid: list[list[str]], least: float, largest: float, most: float) -> Text:
    top = f"{most:.3g}"
    margin = max(len(top), len("error"))
    marks = {0: top, 1: "error", HEIGHT - 1: "0"}
    text = Text(no_wrap=True)
    for index, line in enumerate(grid):
        text.append(f"{marks.get(index, ''):>{margin}} |", "dim")
        for letter in line:
            text.append(letter, {PLAN: "cyan", BEST: "bold magenta", LIMIT: "dim"}.get(letter, ""))
        text.append("\n")
    left, right = f"{least:.1%}", f"{largest:.1%}"
    between = WIDTH - len(left) - len(right)
    text.append(" " * margin + " +" + "-" * WIDTH + "\n", "dim")
    text.append(" " * (margin + 2) + left + f"{'FLOPs':^{between}}" + right + "\n", "dim")
    text.append(
        f"{' ' * (margin + 2)}{PLAN} plan  {BEST} for the budget  {LIMIT} limit".rstrip(), "dim"
    )
    return text
