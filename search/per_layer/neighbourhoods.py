"""The neighbours of structures by number, so that many are counted at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from search.per_layer.space import Space
from sekron.structures.families import Point


class Neighbourhoods:
    """Numbers for the points of a space, in the order in which they are met.

    Args:
        space: Says which points are neighbours.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._numbers: dict[Point, int] = {}
        self._of: dict[int, NDArray[np.int64]] = {}
        self.points: list[Point] = []

    def number(self, point: Point) -> int:
        """Return the place of a point in `points`, where it now is if it was not."""
        number = self._numbers.setdefault(point, len(self.points))
        if number == len(self.points):
            self.points.append(point)
        return number

    def of(self, number: int) -> NDArray[np.int64]:
        """Return the numbers of a point's neighbours, each once, in the space's order."""
        if number not in self._of:
            neighbours = self._space.neighbours(self.points[number])
            self._of[number] = np.array([self.number(n) for n in neighbours], dtype=np.int64)
        return self._of[number]

    def marked(self, numbers: Iterable[int]) -> NDArray[np.bool_]:
        """Return for every point that is known whether its number is one of these."""
        marks = np.zeros(len(self.points), dtype=np.bool_)
        marks[list(numbers)] = True
        return marks
