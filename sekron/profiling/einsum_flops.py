"""Multiply-adds of an einsum, pair by pair as torch contracts it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod


def einsum_flops(
    equation: str, shapes: Sequence[tuple[int, ...]], n_axes: int, path: Sequence[int] = ()
) -> int:
    """Count the products that are summed; an outer product, which sums nothing, counts 0.

    Args:
        equation: As in `torch.einsum`.
        shapes: Shapes of the operands.
        n_axes: Number of axes of the result.
        path: Positions of the pairs that are contracted, two by two; each result is put behind
            the operands that are left. Default from left to right.

    Example:
        >>> einsum_flops("ij,jk->ik", [(2, 3), (3, 4)], 2)
        24
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        free = sorted(letter for letter in set(letters) if letters.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(free)
    result = set(_labels(right, n_axes))
    sizes: dict[str, int] = {}
    operands = []
    for term, shape in zip(terms, shapes, strict=True):
        labels = _labels(term, len(shape))
        operands.append(set(labels))
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    total, pairs = 0, list(path)
    while len(operands) > 1:
        first, second = sorted((pairs.pop(0), pairs.pop(0)) if pairs else (0, 1))
        b, a = operands.pop(second), operands.pop(first)
        needed = result.union(*operands)
        # An axis of one operand alone that nobody needs is summed before the two are multiplied.
        pair = (a | b) & (needed | (a & b))
        if pair - needed:
            total += prod(sizes[label] for label in pair)
        operands.insert(len(operands) if path else 0, pair & needed)
    return total


def _labels(term: str, n_axes: int) -> list[str]:
    """Return one label per axis; those of an ellipsis are counted from the right."""
    before, dots, after = term.partition("...")
    n_dots = n_axes - len(before) - len(after) if dots else 0
    return [*before, *map(str, reversed(range(n_dots))), *after]
