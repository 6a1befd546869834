"""TensorLy's decompositions of a weight, expressed exactly as structures of ours.

Every mode stands whole in one factor, so the number of stored values is the same on both sides,
but for the weights of a CP tensor, which go into its first factor.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sekron.structures.families import Shape
from sekron.structures.structure import Structure

Converted = tuple[Structure, tuple[Tensor, ...]]
"""A structure and its factors, as `sekron.decompose` returns them."""


def from_tensor_train(cores: Sequence[Tensor], modes: Sequence[int] | None = None) -> Converted:
    """Express a `TTTensor` as a `chain`.

    Args:
        cores: One per mode, `(rank before, size, rank after)`; the outer ranks are 1.
        modes: Mode of the weight that each core stands for; default in order.

    Returns:
        The structure and its factors.

    Raises:
        ValueError: If the cores do not fit each other.

    Reference:
        Oseledets, Tensor-train decomposition, SIAM J. Sci. Comput. 33(5), 2011.
    """
    _check_cores(cores, closed=False)
    last = len(cores) - 1
    factors = []
    for k, core in enumerate(cores):
        factor = core.movedim(1, -1)  # (before, after, size)
        if k == 0:
            factor = factor[0]
        elif k == last:
            factor = factor[:, 0]
        factors.append(factor)
    ranks = tuple(core.shape[2] for core in cores[:-1])
    return _converted("chain", factors, ranks, modes)


def from_tensor_ring(cores: Sequence[Tensor], modes: Sequence[int] | None = None) -> Converted:
    """Express a `TRTensor` as a `ring`.

    Args:
        cores: One per mode, `(rank before, size, rank after)`; the last rank is the first again.
        modes: Mode of the weight that each core stands for; default in order.

    Returns:
        The structure and its factors.

    Raises:
        ValueError: If the cores do not fit each other.

    Reference:
        Zhao et al., Tensor ring decomposition, arXiv 1606.05535.
    """
    _check_cores(cores, closed=True)
    factors = [core.movedim(1, -1) for core in cores]
    factors[0] = factors[0].transpose(0, 1)  # bonds stand in ascending order: 0, then the last
    return _converted("ring", factors, tuple(core.shape[2] for core in cores), modes)


def from_cp(
    weights: Tensor | None, factors: Sequence[Tensor], modes: Sequence[int] | None = None
) -> Converted:
    """Express a `CPTensor` as `cp`.

    Args:
        weights: One per rank-one term, or None for ones.
        factors: One per mode, `(size, rank)`.
        modes: Mode of the weight that each factor stands for; default in order.

    Returns:
        The structure and its factors.

    Raises:
        ValueError: If the factors have different ranks.

    Reference:
        Kolda and Bader, Tensor decompositions and applications, SIAM Review 51(3), 2009.
    """
    ranks = {factor.shape[1] for factor in factors}
    if len(ranks) != 1:
        raise ValueError(f"the factors of a CP tensor must have one rank, got {sorted(ranks)}.")
    first, *others = (factor.T for factor in factors)
    first = first if weights is None else first * weights[:, None]
    return _converted("cp", [first, *others], tuple(ranks), modes)


def from_tucker(
    core: Tensor, factors: Sequence[Tensor], modes: Sequence[int] | None = None
) -> Converted:
    """Express a `TuckerTensor`, full or partial, as `tucker`.

    Args:
        core: One rank per factor, in the places of their modes; other modes have their size.
        factors: `(size, rank)`, for the modes that have one.
        modes: Mode of the weight that each factor stands for; default all, in order.

    Returns:
        The structure and its factors, the core last.

    Raises:
        ValueError: If a factor does not fit the core.

    Reference:
        Tucker, Some mathematical notes on three-mode factor analysis, 1966.
    """
    n_modes, factor_modes = core.dim(), list(range(len(factors)) if modes is None else modes)
    for mode, factor in zip(factor_modes, factors, strict=True):
        if factor.shape[1] != core.shape[mode]:
            raise ValueError(
                f"the factor of mode {mode} must have the core's rank {core.shape[mode]}, "
                f"got {factor.shape[1]}."
            )
    core_modes = [mode for mode in range(n_modes) if mode not in factor_modes]
    shapes = [
        _shape({mode: f.shape[0]}, n_modes) for mode, f in zip(factor_modes, factors, strict=True)
    ]
    shapes.append(_shape({mode: core.shape[mode] for mode in core_modes}, n_modes))
    ranks = tuple(factor.shape[1] for factor in factors)
    structure = Structure("tucker", tuple(shapes), ranks)
    inner = core.permute(*factor_modes, *core_modes).reshape(*ranks, *shapes[-1])
    outer = (f.T.reshape(f.shape[1], *s) for f, s in zip(factors, shapes, strict=False))
    return structure, (*outer, inner)


def lifted(converted: Converted, weight_shape: Shape) -> Converted:
    """Give a structure of a weight without modes of extent 1 these modes again.

    Args:
        converted: Structure and factors of the squeezed weight.
        weight_shape: Shape of the weight before it was squeezed.
    """
    structure, factors = converted
    modes = [mode for mode, size in enumerate(weight_shape) if size > 1]
    shapes = tuple(
        _shape(dict(zip(modes, shape, strict=True)), len(weight_shape))
        for shape in structure.shapes
    )
    full = Structure(structure.family, shapes, structure.ranks)
    pairs = zip(factors, full.factor_shapes, strict=True)
    return full, tuple(factor.reshape(shape) for factor, shape in pairs)


def _check_cores(cores: Sequence[Tensor], closed: bool) -> None:
    after = [core.shape[2] for core in cores]
    before = [core.shape[0] for core in cores]
    outer = (after[-1],) if closed else (1,)
    if before != [*outer, *after[:-1]] or (not closed and after[-1] != 1):
        raise ValueError(
            "the cores must fit each other, each beginning with the rank that the one before ends "
            f"with, got {[tuple(core.shape) for core in cores]}."
        )


def _converted(
    family: str, factors: list[Tensor], ranks: tuple[int, ...], modes: Sequence[int] | None
) -> Converted:
    """Give factors `(ranks…, size)` the shapes of factors in which one mode stands whole."""
    factor_modes = list(range(len(factors)) if modes is None else modes)
    shapes = tuple(
        _shape({mode: factor.shape[-1]}, len(factors))
        for mode, factor in zip(factor_modes, factors, strict=True)
    )
    structure = Structure(family, shapes, ranks)
    pairs = zip(factors, shapes, strict=True)
    return structure, tuple(factor.reshape(*factor.shape[:-1], *shape) for factor, shape in pairs)


def _shape(sizes: dict[int, int], n_modes: int) -> Shape:
    return tuple(sizes.get(mode, 1) for mode in range(n_modes))
