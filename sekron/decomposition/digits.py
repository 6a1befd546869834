"""A weight as a tensor of digits: one axis per factor, each holding all that factor's digits.

In this form every structure is an ordinary tensor network on `S` axes, whatever the number of
modes: a Kronecker product becomes an outer product.
"""

from functools import cache
from math import isqrt, prod

from torch import Tensor

from sekron.structures.families import Shape


def to_digits(weight: Tensor, shapes: tuple[Shape, ...]) -> Tensor:
    """Rearrange `(*batch, out, in, kernel…)` to `(*batch, n_1, …, n_S)`, one axis per factor.

    Reference:
        Van Loan & Pitsianis, Approximation with Kronecker products, 1993, for `S = 2`.
    """
    n_factors, n_modes = len(shapes), len(shapes[0])
    batch = weight.shape[: weight.dim() - n_modes]
    split = weight.reshape([*batch, *(s[mode] for mode in range(n_modes) for s in shapes)])
    axes = [mode * n_factors + k for k in range(n_factors) for mode in range(n_modes)]
    moved = split.permute(*range(len(batch)), *(len(batch) + axis for axis in axes))
    return moved.reshape([*batch, *map(prod, shapes)])


def from_digits(digits: Tensor, shapes: tuple[Shape, ...]) -> Tensor:
    """Undo `to_digits`, for a tensor without batch axes."""
    n_factors, n_modes = len(shapes), len(shapes[0])
    split = digits.reshape([size for shape in shapes for size in shape])
    axes = [k * n_modes + mode for mode in range(n_modes) for k in range(n_factors)]
    return split.permute(axes).reshape([prod(s[mode] for s in shapes) for mode in range(n_modes)])


@cache
def divisors(size: int) -> tuple[int, ...]:
    """Return the divisors of a size, ascending, 1 and itself among them."""
    small = [d for d in range(1, isqrt(size) + 1) if size % d == 0]
    return (*small, *(size // d for d in reversed(small) if d * d < size))
