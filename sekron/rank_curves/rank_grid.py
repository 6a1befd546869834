"""Grids of ranks for structures of which trying all ranks would take too long."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sekron.decomposition.cp import fit_work

WORK = 5e8
"""Multiply-adds for the eigenvalues of one `chain`: it sets how many earlier ranks are tried."""

LEAST_EARLIER = 8
"""Number of ranks that are tried in any case at a bond of a `chain`."""

FITTED_RANKS = 8
"""How many ranks of `ring` and `tucker` are fitted, one by one."""

FINE = 256
"""Ranks, at most, among which those are chosen."""

CP_RANKS, CP_FEWEST = 16, 6
CP_WORK = 1.6e11
"""Most and fewest ranks of a `cp` that are fitted, and the multiply-adds that all may take."""

CP_LEAST, CP_MOST = 0.03, (0.75, 0.5, 0.35)
"""Least and largest rank of a `cp`, relative to where it saves nothing any more."""


def earlier_ranks(cap: int, size: int, n_levels: int, multiple: int = 1) -> list[int]:
    """Return the ranks to try at a bond of a `chain` that is not its last; all where it is cheap.

    Args:
        cap: Largest rank.
        size: Size of the matrix whose eigenvalues each rank takes.
        n_levels: Number of bonds for which that is done, this one among them.
        multiple: Number of which all ranks are multiples.
    """
    points = max(LEAST_EARLIER, int(WORK / size**3)) if n_levels == 1 else LEAST_EARLIER
    n_ranks = cap // multiple
    if points >= n_ranks:
        return list(range(multiple, cap + 1, multiple))
    return sorted({multiple * round(n_ranks ** (i / (points - 1))) for i in range(points)})


def fitted_ranks(
    caps: tuple[int, ...],
    are_kept: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
    multiple: int = 1,
) -> NDArray[np.int64]:
    """Return the ranks of a factorization that is fitted rank by rank, one row each.

    Caps are of one rank where the others are 1. All at them save nothing, and the fits of those
    beyond what saves would take longest; nor need all of them be possible together.

    Args:
        caps: Largest ranks, at least `multiple`.
        are_kept: Returns which rows of ranks are possible, and save anything.
        multiple: Number of which all ranks are multiples.
    """
    rows = scaled_ranks(caps, FINE, multiple)
    rows = rows[are_kept(rows)]
    places = np.linspace(0, max(len(rows) - 1, 0), min(FITTED_RANKS, len(rows)))
    return rows[places.round().astype(np.int64)]


def scaled_ranks(caps: tuple[int, ...], number: int, multiple: int = 1) -> NDArray[np.int64]:
    """Return at most `number` rows of ranks, from the least to their caps, all scaled together."""
    shares = np.linspace(0.0, 1.0, number)
    n_ranks = [cap // multiple for cap in caps]
    rows = [[max(1, round(n**share)) for n in n_ranks] for share in shares]
    return multiple * np.unique(np.array(rows, dtype=np.int64), axis=0)


def cp_ranks(cap: int, size: int, multiple: int = 1, number: int = CP_RANKS) -> NDArray[np.int64]:
    """Return ranks spaced evenly in their logarithm, fewer and lower where fits take long.

    Args:
        cap: Largest rank that saves anything.
        size: Numbers in the weight.
        multiple: Number of which all ranks are multiples.
        number: Of ranks, at most.
    """
    for top, count in product(CP_MOST, range(number, min(number, CP_FEWEST) - 1, -1)):
        low, high = (max(1, round(share * cap / multiple)) for share in (CP_LEAST, top))
        grid = np.geomspace(low, high, count).round().astype(np.int64)
        ranks = multiple * np.unique(grid)
        if sum(fit_work(size, int(rank)) for rank in ranks) <= CP_WORK:
            break
    return ranks[:, None]
