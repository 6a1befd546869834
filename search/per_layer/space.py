"""The structures of one layer: how many there are, their templates, neighbours and parameters.

A point of the space is a `(family, factor shapes)`; ranks are not part of it, because a point is
scored at all its ranks at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, permutations, product
from math import prod

from optuna.distributions import IntDistribution

from search.per_layer.work import work_of
from sekron.decomposition.digits import divisors
from sekron.structures.families import Point, Shape

DEFAULT_FAMILIES = ("sekron", "chain", "cp")

MOST_SECONDS, ALL_QUICK = 20.0, 2**23
"""Foretold time of a structure, on one core, up to which it is proposed, and numbers of a weight up
to which none takes longer, so that it need not be asked.

In a larger layer a single structure could take as long as all others. Templates are scored however
long they take."""


@cache
def factorizations(size: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Return all ways to write `size` as an ordered product of `length` factors, sorted.

    Example:
        >>> factorizations(4, 2)
        ((1, 4), (2, 2), (4, 1))
    """
    if length == 1:
        return ((size,),)
    return tuple(
        (first, *rest)
        for first in divisors(size)
        for rest in factorizations(size // first, length - 1)
    )


@cache
def n_factorizations(size: int, length: int) -> int:
    """Return how many `factorizations` there are, without making them."""
    if length == 1:
        return 1
    return sum(n_factorizations(size // first, length - 1) for first in divisors(size))


def nth_factorization(size: int, length: int, index: int) -> tuple[int, ...]:
    """Return one of the `factorizations`; there may be more of them than memory holds.

    Raises:
        IndexError: If there are not so many.
    """
    if index not in range(n_factorizations(size, length)):
        raise IndexError(f"{size} has no such product of {length} factors")
    factors = []
    for n_left in range(length - 1, 0, -1):
        for first in divisors(size):
            n_rest = n_factorizations(size // first, n_left)
            if index < n_rest:
                break
            index -= n_rest
        factors.append(first)
        size //= first
    return (*factors, size)


@dataclass(frozen=True, slots=True)
class Space:
    """All structures of a weight, up to a sequence length.

    Args:
        weight_shape: `(out, in, kernel extents…)`.
        max_length: Most factors in a sequence, at least 2.
        families: Names from `sekron.structures.families.FAMILIES`; a `cp` comes last.
    """

    weight_shape: Shape
    max_length: int = 3
    families: tuple[str, ...] = DEFAULT_FAMILIES

    @property
    def last_proposed(self) -> int:
        """Index of the last family that is proposed; a `cp` is not, where there is another."""
        return max(len([name for name in self.families if name != "cp"]) - 1, 0)

    def distributions(self) -> dict[str, IntDistribution]:
        """Return every parameter that a trial of this space may have.

        Which ones a trial has depends on its `length`: for each mode, the index of a
        factorization of its size into that many factors.
        """
        space = {
            "length": IntDistribution(2, self.max_length),
            "family": IntDistribution(0, len(self.families) - 1),
        }
        for length in range(2, self.max_length + 1):
            for mode, size in enumerate(self.weight_shape):
                last = n_factorizations(size, length) - 1
                space[_parameter(mode, length)] = IntDistribution(0, last)
        return space

    def names(self, length: int) -> list[str]:
        """Return the parameters of a trial of that length, `length` first."""
        modes = range(len(self.weight_shape))
        return ["length", "family", *(_parameter(mode, length) for mode in modes)]

    def point(self, params: dict[str, int]) -> Point | None:
        """Return the point that parameters stand for, or None for the dense weight."""
        length = params["length"]
        columns = [
            nth_factorization(size, length, params[_parameter(mode, length)])
            for mode, size in enumerate(self.weight_shape)
        ]
        return canonical(self.families[params["family"]], tuple(zip(*columns, strict=True)))

    def params(self, point: Point) -> dict[str, int]:
        """Return the parameters that stand for a point."""
        family, shapes = point
        length = len(shapes)
        # Two factors are named `sekron`, also where that was not asked for.
        name = family
        if family not in self.families:
            name = next(other for other in self.families if other in ("chain", "cp"))
        named = {"length": length, "family": self.families.index(name)}
        for mode, size in enumerate(self.weight_shape):
            column = tuple(shape[mode] for shape in shapes)
            named[_parameter(mode, length)] = factorizations(size, length).index(column)
        return named

    @cache  # noqa: B019  as those of `neighbours`
    def templates(self) -> tuple[Point, ...]:
        """Return the structures in which every mode stands whole in one factor.

        Of a `cp` only those with both channel modes alone: others are larger at the same rank.
        Kernels that are long enough to be divided are, between two factors with whole channels:
        a few taps next to each other beside many that are apart.
        """
        modes = range(len(self.weight_shape))
        points: dict[Point, None] = {}
        for length in range(2, self.max_length + 1):
            for home in product(range(length), repeat=len(self.weight_shape)):
                shapes = tuple(
                    tuple(self.weight_shape[m] if home[m] == k else 1 for m in modes)
                    for k in range(length)
                )
                for family in self.families:
                    point = canonical(family, shapes)
                    if point is not None and (point[0] != "cp" or _is_lean(point[1])):
                        points[point] = None
        points |= dict.fromkeys(self._divided_kernels())
        return tuple(points)

    def _divided_kernels(self) -> Iterator[Point]:
        channels = [((size, 1), (1, size)) for size in self.weight_shape[:2]]
        kernel = [factorizations(size, 2) for size in self.weight_shape[2:]]
        for columns in product(*channels, *kernel):
            if any(min(column) > 1 for column in columns):
                for family in self.families:
                    point = canonical(family, tuple(zip(*columns, strict=True)))
                    if point is not None and point[0] == "sekron":  # exact at every rank
                        yield point

    def pairs(self) -> list[Point]:
        """Return all structures of two factors that may be proposed."""
        columns = [factorizations(size, 2) for size in self.weight_shape]
        points: dict[Point, None] = {}
        for choice in product(*columns):
            for family in self.families:
                point = canonical(family, tuple(zip(*choice, strict=True)))
                if point is not None and self._is_proposed(point):
                    points[point] = None
        return list(points)

    def _is_proposed(self, point: Point) -> bool:
        """Whether a structure is of a family that is proposed, and scored soon enough."""
        # Two factors are a `sekron` by name, also where a `cp` alone brings them.
        is_named = point[0] in self.families or "chain" in self.families
        if not is_named and self.families != ("cp",):
            return False
        return prod(self.weight_shape) <= ALL_QUICK or work_of(point).seconds <= MOST_SECONDS

    @cache  # noqa: B019  spaces are few and equal for layers of one shape
    def neighbours(self, point: Point) -> tuple[Point, ...]:
        """Return the points one move away, in a fixed order.

        A move changes the family, swaps two adjacent factors, exchanges the roles of two modes of
        equal size, takes a divisor of one mode from one factor to another, perhaps to a new one,
        or lets two factors trade a prime of one mode for a prime of another. A `cp` has no
        neighbours and is none: it is fitted rank by rank, and only its templates are worth that.
        """
        family, shapes = point
        if family == "cp":
            return ()
        neighbours: dict[Point, None] = {}
        for moved_family, moved in self._moves(family, shapes):
            neighbour = canonical(moved_family, moved)
            if neighbour is None or neighbour == point or neighbour in neighbours:
                continue
            if self._is_proposed(neighbour):
                neighbours[neighbour] = None
        return tuple(neighbours)

    def _moves(
        self, family: str, shapes: tuple[Shape, ...]
    ) -> Iterator[tuple[str, tuple[Shape, ...]]]:
        yield from ((other, shapes) for other in self.families if other not in (family, "cp"))
        for k in range(len(shapes) - 1):
            yield family, (*shapes[:k], shapes[k + 1], shapes[k], *shapes[k + 2 :])
        for a, b in combinations(range(len(self.weight_shape)), 2):
            if self.weight_shape[a] == self.weight_shape[b]:
                yield family, tuple(_transposed(shape, a, b) for shape in shapes)
        yield from ((family, moved) for moved in _shifts(shapes))
        if len(shapes) < self.max_length:
            ones = (1,) * len(self.weight_shape)
            for k in range(len(shapes) + 1):
                for moved in _shifts((*shapes[:k], ones, *shapes[k:])):
                    yield from ((name, moved) for name in self.families if name != "cp")


def _shifts(shapes: tuple[Shape, ...]) -> Iterator[tuple[Shape, ...]]:
    """Move a divisor of one mode between two factors, or trade primes of two modes."""
    modes = range(len(shapes[0]))
    for source, target in permutations(range(len(shapes)), 2):
        for mode in modes:
            for divisor in divisors(shapes[source][mode])[1:]:
                yield _shifted(shapes, source, target, mode, divisor)
        for given, taken in permutations(modes, 2):
            for first in _primes(shapes[source][given]):
                for second in _primes(shapes[target][taken]):
                    half = _shifted(shapes, source, target, given, first)
                    yield _shifted(half, target, source, taken, second)


def _shifted(
    shapes: tuple[Shape, ...], source: int, target: int, mode: int, divisor: int
) -> tuple[Shape, ...]:
    moved = [list(shape) for shape in shapes]
    moved[source][mode] //= divisor
    moved[target][mode] *= divisor
    return tuple(map(tuple, moved))


def _transposed(shape: Shape, a: int, b: int) -> Shape:
    order = {a: b, b: a}
    return tuple(shape[order.get(mode, mode)] for mode in range(len(shape)))


def canonical(family: str, shapes: tuple[Shape, ...]) -> Point | None:
    """Return one name for all points that are the same factorization, None for the dense weight.

    Factors of size 1 change nothing. `sekron`, `chain` and `cp` coincide for two factors, and
    where every mode stands whole in one factor, those of a `cp` have no order. Factors that
    share no mode commute in the Kronecker product, so the last two of a `sekron` may then be
    swapped, and a `chain` reversed (it is then truncated from the other end, to nearly the same
    errors).
    """
    real = tuple(shape for shape in shapes if max(shape) > 1)
    if len(real) < 2:
        return None
    if len(real) == 2 and family in ("sekron", "chain", "cp"):
        family = "sekron"
    if family == "sekron" and _disjoint(real[-2], real[-1]):
        real = (*real[:-2], *sorted(real[-2:], reverse=True))
    if family in ("chain", "cp") and all(_disjoint(a, b) for a, b in permutations(real, 2)):
        real = max(real, real[::-1]) if family == "chain" else tuple(sorted(real, reverse=True))
    return family, real


def _is_lean(shapes: tuple[Shape, ...]) -> bool:
    """Whether both channels stand alone: a term of a `cp` costs the sum of its factors' sizes."""
    return all(sum(size > 1 for size in shape) == 1 or max(shape[:2]) == 1 for shape in shapes)


@cache
def _disjoint(first: Shape, second: Shape) -> bool:
    return all(min(pair) == 1 for pair in zip(first, second, strict=True))


def _parameter(mode: int, length: int) -> str:
    return f"mode{mode}_of_{length}"


@cache
def _primes(size: int) -> tuple[int, ...]:
    """Return the distinct primes that divide a size."""
    return tuple(p for p in divisors(size) if len(divisors(p)) == 2)
